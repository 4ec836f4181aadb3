"""The settings of `spectra train` that say what is learnt; `declared_steps` has those that say how.

Each is declared once: option, type, range, default and help are made from this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.settings import SHARE, setting
from spectra.training.presets import DEFAULT_PRESET, PRESETS

_pictures = partial(setting, panel="Pictures")
_subjects = partial(setting, panel="Several subjects in one shift")
_training = partial(setting, panel="What is trained")


@dataclass(frozen=True)
class SubjectSettings:
    """What a training is given, and what of the base it moves."""

    base: str = _pictures(
        "",
        "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.",
        default_text="embedded",
        path=True,
        brief="Base model; without it the embedded one.",
        elsewhere="pretrained_model_name_or_path pretrained_model model",
    )
    components_from: str = _pictures(**COMPONENTS_FROM)
    prediction_type: str = _pictures(**PREDICTION_TYPE)
    subject: str = _pictures("", "Name of an embedded subject (spectra subjects lists them).", option="--subject")
    subjects: tuple[str, ...] = _pictures(
        (),
        "Name of an embedded subject (spectra subjects lists them). Given two to four times, all go into one shift: "
        'each by name, or as DIR="a photo of a [V1] dog" with a special word of its own in brackets.',
        option="--subject",
        metavar="NAME|DIR=PROMPT",
        brief="An embedded subject, or two to four into one shift.",
    )
    images: str = _pictures(
        "",
        "Folder of instance pictures, or one picture.",
        metavar="DIR",
        path=True,
        brief="The subject's pictures: a folder, or one picture.",
        elsewhere="instance_data_dir train_data_dir image_dir data",
    )
    prompt: str = _pictures(
        "",
        "Instance prompt: a caption with a rare token for the subject.",
        brief='What they show: "a photo of a [V1] dog".',
        elsewhere="instance_prompt",
    )
    captions: bool = _pictures(
        True,
        "Learn a picture under a caption of its own, where it has one: name.txt beside it, or its file_name in "
        "metadata.jsonl or captions.json. The others have the prompt, which may have a place {caption} for captions.",
        elsewhere="caption_column caption_extension",
    )
    repeats: tuple[str, ...] = _pictures(
        (),
        "How often the pictures of a folder below come in a round, beside folders called such as 10_dog. Repeatable.",
        option="--repeats",
        metavar="FOLDER=N",
        elsewhere="num_repeats",
    )
    class_prompt: str = _pictures(
        "",
        "Class prompt: the instance prompt without the rare token. Prior preservation needs it.",
        default_text="the instance prompt without its word in brackets",
        brief='The same without that word: "a photo of a dog".',
    )
    class_images: str = _pictures(
        "",
        "Folder of class pictures, in place of those that the base draws.",
        metavar="DIR",
        path=True,
        elsewhere="class_data_dir reg_data_dir",
    )
    resolution: int = _pictures(
        0,
        "Side of the training pictures in pixels.",
        least=0,
        default_text="the base's own",
        brief="Pixels of the pictures' side.",
        elsewhere="size",
    )
    crop: str = _pictures(
        "bucket",
        "How pictures are cut: bucket, to the nearest of several sizes of the same area, so that little is lost; "
        "square, to their middle. Several subjects in one shift have squares.",
        choices=("bucket", "square"),
        elsewhere="center_crop enable_bucket aspect_ratio_buckets",
    )
    flip: bool = _pictures(False, "Learn each picture mirrored, too.", elsewhere="random_flip flip_aug")
    mask: str = _pictures(
        "",
        "What of the pictures counts in the loss: alpha, what is not transparent; or a folder of masks with the names "
        "of the pictures, white for what counts.",
        metavar="alpha|DIR",
        path=True,
        elsewhere="masked_loss alpha_mask conditioning_data_dir",
    )
    collage: float = _subjects(
        0.6,
        "Probability that a sample shows two of the subjects, each on its half; class pictures too.",
        **SHARE,
        elsewhere="cutmix",
    )
    collage_fit: str = _subjects(
        "crop",
        "How a picture fills its half of a collage: crop keeps its middle, shrink all of it.",
        choices=("crop", "shrink"),
        embedded="shrink",
    )
    collage_prompts: tuple[str, ...] = _subjects(
        ("{before}{left} on the left and {right} on the right", "{before}{right} and {left}"),
        "Prompts of collages, each as likely as another: {left} and {right} stand for the subjects as their prompts "
        "name them, {before} for what stands before that. Repeatable.",
        option="--collage-prompt",
        default_text="two of the base's own form",
        embedded=("{left} on the left and {right} on the right", "{left} and {right}"),
    )
    unmix_weight: float = _subjects(
        1.0,
        "Weight of the loss that keeps a special word's attention off the other subject's half; 0 leaves it out.",
        least=0,
        embedded=0.01,
    )
    unmix_layers: str = _subjects(
        "*", "Cross-attention layers that the unmix loss acts on: patterns of their paths, separated by commas."
    )
    unmix_schedule: str = _subjects(
        "constant",
        "Weight of the unmix loss over the steps: constant, falling to zero, or rising from zero.",
        choices=("constant", "falling", "rising"),
    )
    init_shift: str = _training(
        "",
        "Shift file to start from, with the same targets; without it, training starts from zero.",
        metavar="FILE",
        path=True,
    )
    targets: str = _training(
        "denoiser",
        "Weights that are trained: subset names or patterns, separated by commas, such as unet-ca.",
        option="--target",
    )
    preset: str = _training(
        DEFAULT_PRESET,
        "Which goal the settings that are meant by default are for: "
        + "; ".join(f"{name}, {preset.goal}" for name, preset in PRESETS.items())
        + ".",
        choices=tuple(PRESETS),
        brief="likeness, prompt, style, tiny or svdiff.",
    )
    text_encoder: bool | None = _training(
        False,
        "Train the text encoder too, CLIP as in Stable Diffusion and SDXL. Those of other bases stay as they are, "
        "unless a target names them.",
        embedded=True,
        default_text="the preset's",
        elsewhere="train_text_encoder",
    )
    directions: str = _training(
        "all",
        "Singular directions of each weight that move: all, a number of the leading ones, or a number and :gradient "
        "for those that the subject's gradient asks for.",
        metavar="all|K|K:gradient",
        default_text="the preset's",
    )
    outer: str = _training(
        "0",
        "Outer terms beside them, products of two vectors, or three for a convolution: a number for each weight, or "
        "bytes for all together, such as 64kB, which the subject's gradient shares out.",
        metavar="K|BYTES",
        default_text="the preset's",
        elsewhere="rank network_dim lora_rank dim",
    )
    word: bool = _training(
        False,
        "Learn a vector for each token of the special word, which is added to the token's embedding: the word in "
        "brackets of the instance prompt, or the one that the class prompt lacks.",
        default_text="the preset's",
    )
