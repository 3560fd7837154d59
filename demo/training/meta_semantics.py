"""Meta's semantics for a transformers model, where transformers differs.

First, text tokens that see no image.  In Meta's own implementation of Llama 3.2 Vision
a token before every image leaves a cross-attention layer exactly as it entered: both
the gated attention output and the gated MLP output are multiplied by a mask of the
tokens that see an image.  transformers multiplies the MLP output only, so that a token
before every image still receives the plain average of the image's values.

Second, the vision states.  The vision encoder's intermediate states are the *input* of
layer i for every i in ``intermediate_layers_indices`` in Meta's code, in transformers
4.45 to 4.54, vLLM and Ollama, and the weights were trained so.  transformers 5.12
returns the *output* of layer i, a regression of its pull request 39785.

The server computes what Meta's code does.  Therefore the demo model is trained with the
same semantics, and tests that use transformers as the oracle apply this patch.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama.modeling_mllama import (
    MllamaCrossAttentionDecoderLayer,
    MllamaVisionEncoder,
)


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    cross_attention_states: torch.Tensor | None,
    cross_attention_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    full_text_row_masked_out_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = False,
    position_embeddings: Any = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Runs transformers' forward of the layer, with the line marked below."""
    residual = hidden_states
    attended, _ = self.cross_attn(
        hidden_states=self.input_layernorm(hidden_states),
        attention_mask=cross_attention_mask,
        cross_attention_states=cross_attention_states,
        past_key_values=past_key_values,
        **kwargs,
    )
    attended = self.cross_attn_attn_gate.tanh() * attended
    if full_text_row_masked_out_mask is not None:
        attended = full_text_row_masked_out_mask[:, 0] * attended  # Meta's rule
    hidden_states = residual + attended

    residual = hidden_states
    hidden_states = self.mlp(self.post_attention_layernorm(hidden_states))
    if full_text_row_masked_out_mask is not None:
        hidden_states = full_text_row_masked_out_mask[:, 0] * hidden_states
    return residual + self.cross_attn_mlp_gate.tanh() * hidden_states


def _encoder_forward(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> BaseModelOutput:
    """Runs transformers' forward of the encoder, recording each layer's input."""
    encoder_states: tuple[torch.Tensor, ...] = ()
    for encoder_layer in self.layers:
        encoder_states += (hidden_states,)
        hidden_states = encoder_layer(
            hidden_state=hidden_states, attention_mask=attention_mask
        )
    return BaseModelOutput(
        last_hidden_state=hidden_states,
        hidden_states=encoder_states,
    )


def use_meta_semantics(model: torch.nn.Module) -> None:
    """Patches a model in place to follow Meta in the two ways of this module.

    Without a cross-attention mask (text only) nothing changes, since transformers skips
    the cross-attention layers then.  Applying it twice is harmless.

    Args:
        model: A transformers Mllama model, or a part of one.
    """
    for module in model.modules():
        if isinstance(module, MllamaCrossAttentionDecoderLayer):
            module.forward = MethodType(_forward, module)
        elif isinstance(module, MllamaVisionEncoder):
            module.forward = MethodType(_encoder_forward, module)
