"""Where the words of an answer looked: maps, pictures of them, and files."""
