"""Lines of code that draw with an export."""

from dsd.convert.adapters import LORA_FILE
from dsd.publish.saved import Saved, base_name

COMFYUI_FILE = "comfyui_lora.safetensors"
SINGLE_FILE = "diffusion_model.safetensors"


def usage(saved: Saved, file_format: str, where: str) -> str:
    """How to load it, as Markdown.

    Args:
        saved: the student.
        file_format: of the export.
        where: its id on the Hub, or a word for its folder.
    """
    stock = saved.card.get("stock_pipeline")
    base = base_name(saved.card)
    base = base if base.count("/") == 1 and not base.startswith(("/", ".", "~")) else "BASE"
    wide = saved.conditioning in ("parallel", "concat")
    control = "The reference goes in as the control image" + (
        ", beside black: a canvas of two frames, of which the second one of the answer is the picture."
        if saved.conditioning == "parallel"
        else "."
    )
    if file_format == "diffusers":
        code = _code(
            f'from dsd import DSDPipeline\n\npipe = DSDPipeline.from_pretrained("{where}")\n'
            'picture = pipe(image=reference, prompt="...").images[0]'
        )
        theirs = f"\n\nOr in stock diffusers, as `{stock}`." if stock else ""
        return code + theirs + (f" {control}" if stock and wide else "")
    if file_format == "lora":
        name = stock or "FluxPipeline"
        text = _code(
            f'from diffusers import {name}\n\npipe = {name}.from_pretrained("{base}")\n'
            f'pipe.load_lora_weights("{where}", weight_name="{LORA_FILE}")'
        )
        return f"{text}\n\n{control} The input layer grows as the file is loaded." if wide else text
    if file_format == "comfyui":
        text = f"`{COMFYUI_FILE}` goes into `models/loras`, and onto {base} by the node *Load LoRA*."
        grown = " The input layer grows as the file is loaded (`img_in.reshape_weight`)."
        return f"{text}{grown} {control}" if wide else text
    if file_format == "single_file":
        code = _code(
            "from diffusers import FluxTransformer2DModel\n\n"
            f'transformer = FluxTransformer2DModel.from_single_file("{where}/{SINGLE_FILE}",\n'
            f'    config="{where}", subfolder="transformer")'
        )
        return f"{code}\n\nIn ComfyUI it goes into `models/diffusion_models`." + (
            f" {control}" if wide else ""
        )
    return "The code of the release reads `transformer/` and the LoRA file beside it, which changes nothing."


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
