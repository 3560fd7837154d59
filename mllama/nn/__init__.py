"""The network of Llama 3.2 Vision on the MAX Graph API, in Hugging Face's names.

The network handles tensors, not requests.  It has two root modules, each traced into
one graph:

- :class:`~mllama.nn.image_encoder.MllamaImageEncoder` turns the pixels of images into
  the keys and values of every cross-attention layer, and writes these into the image
  cache.
- :class:`~mllama.nn.text_decoder.MllamaTextDecoder` turns tokens, the KV cache and the
  image cache into logits; one graph serves prefill and decode.

Start with these two files, then read ``vision`` and ``text``, which have their layers.
``layers`` has what both share.
"""
