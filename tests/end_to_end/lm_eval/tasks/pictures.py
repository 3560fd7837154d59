"""The pictures of ``mllama_pictures``, which runs in the harness's own environment."""

from PIL import Image


def images(doc: dict[str, str]) -> list[Image.Image]:
    """Returns the picture that a question is about."""
    return [Image.open(doc["path"]).convert("RGB")]
