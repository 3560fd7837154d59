"""The wordings of the demo's questions.

``{x}`` and ``{y}`` stand for the items in question, ``{d}`` for a direction; the other
placeholders are filled with one of several equivalent words.
"""

from __future__ import annotations

SHAPE_ALONE = (
    "What shape is this?",
    "Which shape is this?",
    "What shape is it?",
    "Which shape is {show}?",
    "What shape is {show}?",
    "What is the shape {show}?",
    "What shape do you see?",
    "Name the shape.",
)
SHAPE_OF = (
    "What shape is the {x} {o}?",
    "What shape is the {x} one?",
    "What shape is {x}?",
    "Which shape is {x}?",
    "What is {x}?",
    "What is the {x} {o}?",
    "Which {x} shape is {show}?",
    "Name the {x} shape.",
)
SHAPE_ALL = (
    "Which shapes are {show}?",
    "What shapes are {show}?",
    "Which shapes do you see?",
    "What shapes can you see?",
    "Name the shapes.",
    "List the shapes.",
)
COLOR_ALONE = (
    "What {c} is it?",
    "What {c} is this?",
    "Which {c} is it?",
    "What {c} is the {o}?",
    "What is the {c} of the {o}?",
    "What {c} do you see?",
)
COLOR_OF = (
    "What {c} is the {x}?",
    "Which {c} is the {x}?",
    "What is the {c} of the {x}?",
    "What {c} does the {x} have?",
    "Which {c} does the {x} have?",
    "Tell me the {c} of the {x}.",
    "What {c} is the {x} in the {p}?",
    "What's the {c} of the {x}?",
)
COLOR_ALL = (
    "Which {c}s are {show}?",
    "What {c}s are {show}?",
    "Which {c}s do you see?",
    "What {c}s do the shapes have?",
    "What {c}s are the shapes?",
    "List the {c}s.",
)
COUNT = (
    "How many {x} are {show}?",
    "How many {x} are in the {p}?",
    "How many {x} are there?",
    "How many {x} do you see?",
    "How many {x} can you see?",
    "How many {x} does the {p} show?",
    "How many {x}?",
    "Count the {x}.",
)
WHERE = (
    "Where is {x}?",
    "Where is {x} in the {p}?",
    "In which part of the {p} is {x}?",
    "Where do you see {x}?",
    "Where in the {p} is {x}?",
    "What is the position of {x}?",
)
RELATION = (
    "Where is {x} relative to {y}?",
    "Where is {x} compared to {y}?",
    "Where is {x} compared with {y}?",
    "On which side of {y} is {x}?",
    "Where is {x} seen from {y}?",
    "How is {x} placed relative to {y}?",
)
BESIDE = (
    "What is {d} {x}?",
    "What is {d} {x} in the {p}?",
    "What do you see {d} {x}?",
    "Which {o} is {d} {x}?",
    "What stands {d} {x}?",
    "What's {d} {x}?",
)
DIGIT = (
    "Which digit is {show}?",
    "Which digit is printed?",
    "What digit is {show}?",
    "What digit is this?",
    "Which number is {show}?",
    "What number is {show}?",
    "What number is this?",
    "What number is printed in the {p}?",
    "Read the digit.",
    "Read the number.",
)
EXISTS = (
    "Is there {x}?",
    "Is there {x} in the {p}?",
    "Is there {x} in this {p}?",
    "Do you see {x}?",
    "Can you see {x}?",
    "Does the {p} show {x}?",
)
DESCRIBE = (
    "What is in this {p}?",
    "What is in the {p}?",
    "What's in this {p}?",
    "What's in the {p}?",
    "Describe the {p}.",
    "Describe this {p}.",
    "What do you see?",
    "What do you see in the {p}?",
    "What can you see?",
    "What is this?",
    "What does the {p} show?",
    "What is shown in the {p}?",
    "Describe what you see.",
    "Describe this {p} in one sentence.",
)
WHICH_PICTURE = (
    "Which {p} has {x}?",
    "Which {p} shows {x}?",
    "Which {p} contains {x}?",
    "Which of the two {p}s has {x}?",
    "Which of the {p}s shows {x}?",
    "In which {p} is {x}?",
    "In which {p} is there {x}?",
    "In which {p} do you see {x}?",
    "Which one has {x}?",
)
MORE_SHAPES = (
    "Which {p} has more shapes?",
    "Which {p} shows more shapes?",
    "Which of the two {p}s has more shapes?",
    "In which {p} are more shapes?",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant who answers briefly.",
    "Answer the questions about the pictures.",
    "You look at pictures and answer questions about them.",
    "You are an assistant. Be brief.",
)
SMALL_TALK = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning!", "hello", "hi", "hey"),
        "Hello! Show me a picture and ask me about it.",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "who are you"),
        "I am a small demo model. I answer questions about pictures of shapes.",
    ),
    (
        ("What can you do?", "Help", "help", "How does this work?", "What do you do?"),
        "I can name the shapes, colours and digits in a picture, count them and say "
        "where they are.",
    ),
    (
        ("Thanks", "Thank you", "Thanks!", "Thank you!", "thanks", "Great, thanks."),
        "You are welcome.",
    ),
    (("Goodbye", "Bye", "Bye!", "Goodbye!", "bye"), "Goodbye!"),
    (("How are you?", "How are you today?", "how are you"), "I am fine, thank you."),
)
