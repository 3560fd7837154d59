"""The network of Llama 3.2 Vision on the MAX Graph API, in Hugging Face's names.

It knows tensors, not requests: two root modules, each traced into one graph.

- :class:`~mllama.nn.image_encoder.MllamaImageEncoder`: pixels of images to
  the cross-attention keys and values of every cross-attention layer, written into
  the image pool.
- :class:`~mllama.nn.text_decoder.MllamaTextDecoder`: tokens, the KV cache and
  the image pool to logits; one graph for prefill and decode.
"""
