"""The Space: record or upload a sound, and see what a small network makes of it.

python model_cards/space/app.py --model runs/student-cpr-128k-dirfms-s0
ASCDISTILL_MODELS=runs/student,runs/teacher python model_cards/space/app.py

Without either, the models of the card beside this file are taken from the Hub. GRADIO_SERVER_NAME and
GRADIO_SERVER_PORT say where it listens. Nothing leaves the machine once the models are there.
"""

import argparse
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from huggingface_hub import metadata_load

from hf_ascdistill import (
    EndpointHandler,
    Limits,
    describe_complexity,
    draw_hearing,
    hear,
    load_students,
    named_models,
)

CARD = Path(__file__).with_name("README.md")
HEADER = """# What does it sound like?
Small networks say what a recording sounds like, one second at a time. Record a second or more, or upload up to
{minutes:g} minutes; recordings are deleted soon after."""
SHOWN_SCENES = 7
KEPT_SECONDS = 600  # of an upload, at least; at most twice as long
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none is fetched


def classify(students: Mapping[str, EndpointHandler], path: str | None, name: str) -> tuple[dict | None, Any]:
    """Returns the scores and the picture of a recording; nothing of none.

    Raises:
        gr.Error: the recording cannot be heard; its message is shown on the page.
    """
    if path is None:
        return None, gr.update(value=None, visible=False)
    try:
        hearing = hear(students[name], path)
    except ValueError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error
    return dict(hearing.scores), gr.update(value=draw_hearing(hearing), visible=True)


def build_page(students: Mapping[str, EndpointHandler], limits: Limits) -> gr.Blocks:
    """Lays the page out: sound and model on the left, scenes on the right, the picture below."""
    badges, names = {name: describe_complexity(student) for name, student in students.items()}, list(students)
    with gr.Blocks(title="Acoustic scenes", delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(HEADER.format(minutes=limits.max_seconds / 60))
        with gr.Row():
            with gr.Column(scale=2):
                audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", buttons=[])
                model = gr.Dropdown(names, value=names[0], label="Model", interactive=True)
                badge = gr.HTML(badges[names[0]], elem_id="badge", padding=False)
            with gr.Column(scale=3):
                label = gr.Label(label="Scene", num_top_classes=SHOWN_SCENES, elem_id="scene")
        picture = gr.Plot(show_label=False, visible=False, elem_id="picture")
        gr.on(
            [audio.change, model.change],
            lambda path, name: classify(students, path, name),
            inputs=[audio, model],
            outputs=[label, picture],
            api_name="classify",
        )
        model.change(badges.get, inputs=model, outputs=badge, api_name="complexity")
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", help="folders or Hub names of the models to offer")
    names = parser.parse_args(argv).model or named_models(metadata_load(CARD)["models"])
    limits = Limits()
    try:
        students = load_students(names, limits)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    build_page(students, limits).launch(
        theme=gr.themes.Soft(primary_hue="blue", **FONTS),
        max_file_size=limits.max_bytes,
        footer_links=["api", "gradio"],
        run_history=False,
        ssr_mode=False,
    )


if __name__ == "__main__":
    main()
