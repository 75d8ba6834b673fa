"""Lines of code that draw with an export."""

from dsd.convert.adapters import LORA_FILE
from dsd.convert.exports import COMFYUI_FILE, SINGLE_FILE
from dsd.publish.saved import Saved, public_base


def usage(saved: Saved, file_format: str, where: str) -> str:
    """How to load it, as Markdown.

    Args:
        saved: the student.
        file_format: of the export.
        where: its id on the Hub, or a word for its folder.
    """
    if file_format == "release":
        return (
            "The code of the release reads `transformer/` and the LoRA file beside it, which changes nothing."
        )
    stock = saved.card.get("stock_pipeline")
    name = stock or "FluxPipeline"
    wide = saved.conditioning in ("parallel", "concat")
    control = "The reference goes in as the control image" + (
        ", beside black: a canvas of two frames, of which the second one of the answer is the picture."
        if saved.conditioning == "parallel"
        else "."
    )
    control = f" {control}" if stock and wide else ""
    ours = _ours(saved, file_format, where)
    if file_format == "diffusers":
        theirs = f"\n\nOr in stock diffusers, as `{stock}`." if stock else ""
        return f"{ours}{theirs}{control}"
    named = public_base(saved.card)
    base = named if named and "/" in named else "BASE"  # stock diffusers does not know "mini"
    grown = " The input layer grows as the file is loaded"
    # Named, or what was trained in float32 would meet a half-precision base.
    dtype = f"torch_dtype={saved.dtype}"
    if file_format == "lora":
        theirs = _code(
            f"import torch\nfrom diffusers import {name}\n\n"
            f'pipe = {name}.from_pretrained("{base}", {dtype})\n'
            f'pipe.load_lora_weights("{where}", weight_name="{LORA_FILE}")'
        )
        text = f"{ours}\n\nOr in stock diffusers:\n\n{theirs}"
        return f"{text}\n\n{control.lstrip()}{grown}." if wide else text
    if file_format == "comfyui":
        text = f"`{COMFYUI_FILE}` goes into `models/loras`, and onto {base} by the node *Load LoRA*."
        text += f"{grown} (`img_in.reshape_weight`).{control}" if wide else ""
        return f"{text}\n\nOr here:\n\n{ours}"
    theirs = _code(
        f"import torch\nfrom diffusers import {name}, FluxTransformer2DModel\n\n"
        f'transformer = FluxTransformer2DModel.from_single_file("{where}/{SINGLE_FILE}",\n'
        f'    config="{where}", subfolder="transformer", {dtype})\n'
        f'pipe = {name}.from_pretrained("{base}", transformer=transformer, {dtype})'
    )
    text = f"{ours}\n\nOr in stock diffusers, which reads the sizes of FLUX.1 alone:\n\n{theirs}"
    return f"{text}\n\nIn ComfyUI the file goes into `models/diffusion_models`.{control}"


def _ours(saved: Saved, file_format: str, where: str) -> str:
    needed = file_format != "diffusers" and public_base(saved.card) is None
    base = ', base="BASE"' if needed else ""
    return _code(
        f'from dsd import DSDPipeline\n\npipe = DSDPipeline.from_pretrained("{where}"{base})\n'
        'picture = pipe(image=reference, prompt="...").images[0]'
    )


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
