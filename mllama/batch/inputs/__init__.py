"""What a batch reads: OpenAI's lines, or pictures from files of several kinds."""
