"""Train the demo model: ``python -m demo.training.train --seed 0 --output DIR``.

First the vision encoder and the projector are trained alone, with auxiliary heads
(``vision_probes``), then the whole model is trained to answer.  Both stages keep
checkpoints in ``--work`` and continue from the last one when started again.
``--continue-from DIR`` trains a saved model further.  A step takes about 1.3 s on two
cores, everything an estimated two to five hours.  ``demo/README.md`` says how the
shipped weights were made.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
)

from demo.training import architecture, tokenizer
from demo.training.batches import ConversationBatches, PictureBatches
from demo.training.meta_semantics import use_meta_semantics
from demo.training.optimization import (
    learning_rate_share,
    log,
    make_optimizer,
    optimizer_step,
    save_state,
    stream,
)
from demo.training.pixels import MEAN, STD, normalize
from demo.training.scoring import (
    answer_loss,
    held_out_accuracy,
    held_out_batches,
    overall,
    vision_states,
)
from demo.training.text_probes import TextProbes
from demo.training.vision_probes import PER_TILE, VisionProbes

HELD_OUT_SEED = 1_000_003
"""Training draws from other seeds."""


def train_vision(
    model: MllamaForConditionalGeneration,
    vision_probes: VisionProbes,
    options: argparse.Namespace,
) -> None:
    """Trains the vision encoder and the projector with the vision probes."""
    path = options.work / "eye.pt"
    parameters = [
        *model.model.vision_model.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *vision_probes.parameters(),
    ]
    optimizer = make_optimizer([(parameters, options.eye_rate)])
    start = 0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        vision_probes.load_state_dict(state["heads"], strict=False)
        start = state["step"] + 1
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    data = PictureBatches(options.seed, options.rows, ramp=100, steps=options.eye_steps)
    began, recent = time.time(), dict[str, float]()
    for step, batch in enumerate(stream(data, start, options.eye_steps), start):
        states = vision_states(model, batch)
        loss, right = vision_probes(states.flatten(0, 1), batch["targets"])
        optimizer_step(
            optimizer, loss, learning_rate_share(step, options.eye_steps, 100)
        )
        recent = {k: 0.95 * recent.get(k, v) + 0.05 * v for k, v in right.items()}
        if step % 50 == 0:
            shown = {key: round(value, 3) for key, value in recent.items()}
            log(f"vision {step} {time.time() - began:.0f}s {loss.item():.3f} {shown}")
        if step % 300 == 299 or step == options.eye_steps - 1:
            state = {"model": model.state_dict(), "heads": vision_probes.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "step": step}
            save_state(path, state)


def train_vision_on_one_tile(
    model: MllamaForConditionalGeneration,
    vision_probes: VisionProbes,
    options: argparse.Namespace,
) -> None:
    """Trains the vision encoder on pictures of one tile, at a quarter of the cost."""
    path = options.work / "small-eye.pt"
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        vision_probes.load_state_dict(state["heads"], strict=False)
        return
    view = architecture.one_tile_view(model)
    use_meta_semantics(view)
    projector = model.model.multi_modal_projector
    parameters = [
        *view.parameters(),
        *projector.parameters(),
        *vision_probes.parameters(),
    ]
    optimizer = make_optimizer([(parameters, options.eye_rate)])
    steps, rows = options.small_eye_steps, options.small_rows
    data = PictureBatches(options.seed, rows, ramp=steps, steps=steps, small=True)
    began, recent = time.time(), dict[str, float]()
    for step, batch in enumerate(stream(data, 0, steps)):
        mask = batch["aspect_ratio_mask"][:, :, :1]
        encoded = view(
            pixel_values=normalize(batch["pixels"][:, :, :1], mask),
            aspect_ratio_ids=batch["aspect_ratio_ids"],
            aspect_ratio_mask=mask,
        ).last_hidden_state
        wanted = batch["targets"]
        for name in PER_TILE:
            wanted[name] = wanted[name][:, :1].contiguous()
        loss, right = vision_probes(projector(encoded).flatten(0, 1), wanted)
        optimizer_step(optimizer, loss, max(0.3, learning_rate_share(step, steps, 100)))
        recent = {k: 0.95 * recent.get(k, v) + 0.05 * v for k, v in right.items()}
        if step % 50 == 0:
            shown = {key: round(value, 3) for key, value in recent.items()}
            log(f"one tile {step} {time.time() - began:.0f}s {loss.item():.3f} {shown}")
        if step % 200 == 199 or step == steps - 1:
            state = {"model": model.state_dict(), "heads": vision_probes.state_dict()}
            save_state(path, state)


def train_model(
    model: MllamaForConditionalGeneration,
    vision_probes: VisionProbes,
    words: PreTrainedTokenizerFast,
    options: argparse.Namespace,
) -> MllamaForConditionalGeneration:
    """Trains the whole model to answer; returns the moving average of its weights."""
    path = options.work / "whole.pt"
    vision = [
        *model.model.vision_model.parameters(),
        *model.model.multi_modal_projector.parameters(),
    ]
    text = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    width = model.config.text_config.hidden_size
    text_probes = nn.ModuleList([TextProbes(width), TextProbes(width)])
    groups = [(vision, 0.6), (text, 1.0), (list(vision_probes.parameters()), 1.0)]
    groups.append((list(text_probes.parameters()), 2.0))
    optimizer = make_optimizer(
        [(chosen, share * options.rate) for chosen, share in groups]
    )
    average = copy.deepcopy(model)
    kept_states: list[torch.Tensor] = []
    for index in model.config.text_config.cross_attention_layers:
        model.model.language_model.layers[index].register_forward_hook(
            lambda _module, _inputs, output: kept_states.append(output)
        )
    start = 0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        vision_probes.load_state_dict(state["heads"], strict=False)
        text_probes.load_state_dict(state["lookups"], strict=False)
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        start = state["step"] + 1
    architecture.follow_meta(model, average)
    data = ConversationBatches(
        options.seed,
        words,
        rows=options.rows,
        tokens=options.tokens,
        ramp=options.ramp,
        steps=options.steps,
    )
    held_out = held_out_batches(HELD_OUT_SEED, words, options.examined)
    began, shown_loss = time.time(), 0.0
    for step, batch in enumerate(stream(data, start, options.steps), start):
        states = vision_states(model, batch)
        # The auxiliary losses fade out: in the end only answers count.
        weight = 0.3 * max(0.0, 1 - step / (0.7 * options.steps))
        vision_loss, _ = vision_probes(states.flatten(0, 1), batch["targets"])
        kept_states.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            answers = answer_loss(model, batch, states)
        text_loss = answers.new_zeros(())
        for number, kept_state in enumerate(kept_states):
            loss, right = text_probes[number](kept_state, batch["notes"])
            text_loss = text_loss + loss
        share = learning_rate_share(step, options.steps, 60)
        optimizer_step(optimizer, answers + weight * (vision_loss + text_loss), share)
        keep = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - keep)
        last = step == options.steps - 1
        shown_loss = 0.95 * (shown_loss or answers.item()) + 0.05 * answers.item()
        if step % 25 == 0:
            log(
                f"model {step} {time.time() - began:.0f}s answers {shown_loss:.3f} "
                f"vision {vision_loss.item():.3f} "
                f"text {text_loss.item():.3f} "
                f"{ {key: round(value, 2) for key, value in right.items()} }"
            )
        if step % options.every == options.every - 1 or last:
            scores = held_out_accuracy(average, held_out)
            shown = {kind: round(score, 2) for kind, score in scores.items()}
            log(f"held out {step} {overall(scores):.3f} {shown}")
            state = {"model": model.state_dict(), "average": average.state_dict()}
            state |= {"heads": vision_probes.state_dict(), "step": step}
            state |= {"lookups": text_probes.state_dict()}
            state |= {"optimizer": optimizer.state_dict()}
            save_state(path, state)
    return average


def save(
    model: MllamaForConditionalGeneration,
    words: PreTrainedTokenizerFast,
    output: Path,
) -> None:
    """Writes weights, configurations, tokenizer and processor as transformers does."""
    ids = tokenizer.special_ids(words)
    model.generation_config = GenerationConfig(
        bos_token_id=ids[tokenizer.BEGIN],
        eos_token_id=[ids[tokenizer.END], ids[tokenizer.TURN_END]],
        pad_token_id=ids[tokenizer.PAD],
        do_sample=False,
    )
    model.save_pretrained(output)
    pictures = MllamaImageProcessorPil(
        size={"height": architecture.TILE, "width": architecture.TILE},
        max_image_tiles=architecture.MAX_TILES,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    processor = MllamaProcessor(pictures, words, chat_template=words.chat_template)
    processor.save_pretrained(output)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("demo-training"))
    parser.add_argument(
        "--tokenizer", type=Path, help="a trained tokenizer; default: train one"
    )
    parser.add_argument("--continue-from", type=Path, help="a saved model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32, help="sequences of a batch")
    parser.add_argument(
        "--tokens", type=int, default=200, help="tokens of text for each picture"
    )
    parser.add_argument("--small-eye-steps", type=int, default=1500)
    parser.add_argument("--small-rows", type=int, default=96)
    parser.add_argument("--eye-steps", type=int, default=1400)
    parser.add_argument("--eye-rate", type=float, default=1.5e-3)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--rate", type=float, default=1.3e-3)
    parser.add_argument("--ramp", type=int, default=300)
    parser.add_argument(
        "--every", type=int, default=150, help="steps between evaluations"
    )
    parser.add_argument(
        "--examined", type=int, default=80, help="held-out conversations of every kind"
    )
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Trains a model and saves it."""
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    earlier = options.tokenizer or options.continue_from
    if earlier is None:
        words = tokenizer.build(options.seed)
    else:
        words = PreTrainedTokenizerFast.from_pretrained(earlier)
    model = architecture.build(tokenizer.special_ids(words), options.seed)
    vision_probes = VisionProbes(model.config.text_config.hidden_size)
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    if options.continue_from is None:
        train_vision_on_one_tile(model, vision_probes, options)
        train_vision(model, vision_probes, options)
    else:
        trained = MllamaForConditionalGeneration.from_pretrained(options.continue_from)
        model.load_state_dict(trained.state_dict())
    average = train_model(model, vision_probes, words, options)
    save(average, words, options.output)
    held_out = held_out_batches(HELD_OUT_SEED + 1, words, 200)
    scores, blind = (
        held_out_accuracy(average, held_out, flag) for flag in (False, True)
    )
    result = {"accuracy": overall(scores), "by_kind": scores}
    print(json.dumps({**result, "blind_accuracy": overall(blind)}))


if __name__ == "__main__":
    main()
