"""The command `radin`: soups from a folder of checkpoints, without a line of Python."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from radin.checkpoints.libraries import SPEC_FORMS
from radin.cli.notes import print_notes, warnings_as_notes
from radin.cli.words import (
    ASK_OPTIONS,
    COLOUR_NAMES,
    DATA_SET_NAMES,
    DEFAULT_BUDGET,
    FOLDER_PREFIX,
    GRANULARITIES,
    IMAGE_RECIPE_NAMES,
    LIVE_RECIPE_NAMES,
    MODEL_SOUPS,
    RECIPE_NAMES,
    STARTS,
    default_recipe,
)
from radin.errors import RadinError, did_you_mean

CRAFT_RECIPES = [*RECIPE_NAMES, *IMAGE_RECIPE_NAMES, *LIVE_RECIPE_NAMES]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 1 after one message on stderr, or 130 after Ctrl-C. For wrong usage
        argparse ends the program with 2.
    """
    options = make_parser().parse_args(arguments)
    if options.command == "craft":
        if options.recipe is None:
            of_radin = options.prior is not None or options.free_singles
            options.recipe = default_recipe(of_radin)
        options.prior = options.prior or 0.0
    if isinstance(sys.stdout, TextIOWrapper):  # file names need not be text in its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if os.getcwd() not in sys.path:
            # As `python -m` does: --model mymodule:build is found in the user's folder.
            sys.path.insert(0, os.getcwd())
        with warnings_as_notes():
            command_function(options.command)(options)
        sys.stdout.flush()
    except RadinError as error:
        print_notes(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        print(
            "\nstopped; what was predicted is kept, and the same command continues from there.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # `radin ... | head` reads no more; Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a file that changed, a disk that failed
        name = error.filename or "the working folder"
        print_notes(f"error: {name}: could not be used ({error.strerror or error}).")
        return 1
    except RuntimeError as error:
        from torch import OutOfMemoryError  # only a command that has imported torch comes here

        if not isinstance(error, OutOfMemoryError):
            raise
        print_notes("error: the device is out of memory; give a smaller --batch-size.")
        return 1
    return 0


def _number_list(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers such as 0.5,0.5"
        ) from None


def _recipe(text: str) -> str:
    """A recipe's name, or the place of a function."""
    if ":" in text:
        return text
    return _named(text, CRAFT_RECIPES, ", or give package.module:function")


def _recipe_by_accuracy(text: str) -> str:
    """The name of a recipe that needs nothing but accuracies."""
    return _named(text, RECIPE_NAMES)


def _named(text: str, names: Sequence[str], otherwise: str = "") -> str:
    """One of some names."""
    if text in names:
        return text
    raise argparse.ArgumentTypeError(
        f"invalid choice: {text!r} ({did_you_mean(text, names)}choose from "
        f"{', '.join(names)}{otherwise})"
    )


RGB_OPTION: dict[str, Any] = {"type": _number_list, "metavar": "R,G,B"}
OPTIONS: dict[str, dict[str, Any]] = {
    "checkpoints": {
        "nargs": "+",
        "metavar": "CHECKPOINT",
        "help": "files, one folder, or a quoted glob",
    },
    "ledger": {"type": Path, "metavar": "LEDGER", "help": "the file that keeps the trials"},
    "value": {
        "type": float,
        "metavar": "VALUE",
        "help": "what the evaluation gave; accuracies are in percent",
    },
    "soup": {"metavar": "SOUP", "help": "a file, or the folder of its shards"},
    "name": {
        "metavar": "NAME",
        "help": "of a shipped bench, such as cifar10 or digits-conv-wild-000 (a wrong name lists "
        "them all), or a file of SoupBench.save",
    },
    "dataset": {
        "choices": [MODEL_SOUPS, *DATA_SET_NAMES],
        "metavar": "NAME",
        "help": f"{MODEL_SOUPS}, the 72 published ingredients, or a data set: "
        + ", ".join(DATA_SET_NAMES),
    },
    "--bank": {
        "nargs": "+",
        "metavar": "LOGITS",
        "help": "logits of your own program, .npy, .npz, .csv or .parquet, one file for each "
        "model, a folder or a quoted glob; or one file of LogitBank.save",
    },
    "--labels": {
        "metavar": "FILE",
        "help": "of --bank: the labels, where its files do not hold them",
    },
    "--names": {
        "nargs": "+",
        "metavar": "NAME",
        "help": "of --bank: what the models are called, such as the folders that mergekit opens "
        "(the files' names)",
    },
    "--probabilities": {
        "action": "store_true",
        "help": "of --bank: its files hold probabilities; their logarithm is taken",
    },
    "--trial": {
        "type": int,
        "metavar": "NUMBER",
        "help": "whose value it is, as radin ask says (the one that waits)",
    },
    "--base": {
        "metavar": "FILE",
        "help": "the checkpoints are LoRA adapters, folders of peft, and this is what they were "
        "trained on; --out FOLDER then writes the soup as an adapter",
    },
    "--family": {
        "metavar": "FAMILY",
        "help": "of files with several starts: largest, a number that radin families gives, or all "
        "(all, with a note)",
    },
    "--plot": {
        "type": Path,
        "metavar": "FILE",
        "help": "draw the tree of the files: .png, .svg or .pdf",
    },
    "--model": {
        "required": True,
        "metavar": "SPEC",
        "help": f"the network: {SPEC_FORMS}, a function of your own that takes nothing, or "
        "num_classes",
    },
    "--online": {
        "action": "store_true",
        "help": "let --model hf:NAME ask the Hugging Face hub for the config.json of a NAME that "
        "is no folder (nothing is downloaded)",
    },
    "--data": {
        "required": True,
        "help": f"the images: {FOLDER_PREFIX}PATH, with PATH/<part>/<class>/<image> inside; a "
        "name such as cifar10 or imagenet; or package.module:function, a function of your own from "
        "the part to a data set, DataLoader or arrays",
    },
    "--part": {
        "default": "val",
        "help": "of the data: val, test, ...; evaluate takes several, val,test (%(default)s)",
    },
    "--images": {
        "type": int,
        "metavar": "N",
        "help": "a quick look: N images, evenly spread over each part (all)",
    },
    "--init": {"metavar": "FILE", "help": "the checkpoint that all of them started from, if known"},
    "--budget": {
        "type": int,
        "default": DEFAULT_BUDGET,
        "help": "evaluations that a recipe may spend, 1 or more (%(default)s)",
    },
    "--recipe": {
        "type": _recipe,
        "default": None,
        "metavar": "NAME",
        "help": f"how to spend them: {', '.join(CRAFT_RECIPES)}, or package.module:function, a "
        "function of your own from a bank and a ledger to mixing weights (safe; radin with an "
        "option of radin)",
    },
    "--prior": {
        "type": float,
        "default": 0.0,
        "help": "of radin: bonus of the full zoo in points (%(default)s)",
    },
    "--metric": {
        "default": "accuracy",
        "metavar": "NAME",
        "help": "what soups are compared by: accuracy, top5_accuracy, macro_f1, balanced_accuracy, "
        "mean_iou, calibration_error or nll (%(default)s)",
    },
    "--share": {
        "type": float,
        "default": 1.0,
        "help": "of the images that each soup is run on, such as 0.3, for as many more soups; of "
        "race: in its first round (%(default)s: all; a race begins with its own)",
    },
    "--threshold": {
        "type": float,
        "default": 0.0,
        "help": "of safe: by how many standard errors a soup must lead the best ingredient "
        "(%(default)s)",
    },
    "--free-singles": {
        "action": "store_true",
        "help": "of radin: an ingredient alone costs no evaluation, because its accuracy is known",
    },
    "--granularity": {
        "choices": GRANULARITIES,
        "default": "ingredient",
        "help": "of learned: what has a mixing weight of its own for each ingredient, all of it "
        "(ingredient), each block of layers or each tensor (%(default)s)",
    },
    "--start": {
        "choices": STARTS,
        "default": "uniform",
        "help": "of learned: the soup to start from; convex: the mixing weights whose ensemble has "
        "the lowest negative log-likelihood (%(default)s)",
    },
    "--holdout": {
        "type": float,
        "default": 0.0,
        "metavar": "SHARE",
        "help": "of learned: the part of the images, such as 0.2, that is not learned from and "
        "says when to stop (%(default)s: none)",
    },
    "--json": {
        "action": "store_true",
        "help": "print one JSON object with unrounded numbers in the place of tables",
    },
    "--seed": {"type": int, "default": 0, "help": "of random choices (%(default)s)"},
    "--top": {"type": int, "default": 10, "help": "how many candidates to print (%(default)s)"},
    "--weights": {
        "type": _number_list,
        "help": "a number for each checkpoint, such as 0.7,0.3; sum 1 (all alike)",
    },
    "--test-part": {"metavar": "PART", "help": "images that choose nothing, for an honest report"},
    "--refresh-part": {
        "metavar": "PART",
        "help": "training images, to measure batch norm again for each soup",
    },
    "--out": {
        "type": Path,
        "metavar": "FILE",
        "help": "where the soup is written, a .safetensors file",
    },
    "--shard-size": {
        "metavar": "SIZE",
        "help": "the maximum of one file, such as 2GB; a larger soup becomes shards",
    },
    "--force": {"action": "store_true", "help": "replace FILE if it exists"},
    "--size": {
        "type": int,
        "help": "edge of the images in pixels (224 for imagenet and "
        f"{FOLDER_PREFIX}PATH, or what preprocessor_config.json of hf:FOLDER says; else as they "
        "are)",
    },
    "--normalise": {
        "choices": [*COLOUR_NAMES, "none"],
        "help": "colours the network was trained with; none: -1 to 1 (clip for open_clip models, "
        "those of preprocessor_config.json for hf, none for others)",
    },
    "--mean": {**RGB_OPTION, "help": "colours of your own, pixels from 0 to 1"},
    "--std": {**RGB_OPTION, "help": "their standard deviations"},
    "--unused": {
        "choices": ["error", "skip"],
        "help": "keys that the network lacks: refuse, or skip if alike in all files (skip; error "
        "for one file)",
    },
    "--ema": {
        "action": "store_true",
        "help": "read the moving averages (EMA) of the weights that the files hold",
    },
    "--device": {"default": "auto", "help": "auto, cpu or cuda (%(default)s)"},
    "--batch-size": {
        "type": int,
        "default": 256,
        "help": "images in one forward pass (%(default)s)",
    },
    "--workers": {
        "type": int,
        "metavar": "N",
        "help": "threads that decode images (one for each core)",
    },
    "--precision": {
        "choices": ["single", "half"],
        "default": "single",
        "help": "in which networks compute; half is faster on a GPU and changes accuracies a "
        "little (%(default)s)",
    },
    "--ids": {"help": f"of {MODEL_SOUPS}: numbers and ranges such as 0-12,43 (all)"},
    "--to": {
        "metavar": "DIR",
        "help": "the folder of all data sets; the folder NAME is created in it (RADIN_DATA)",
    },
}
IMAGE_OPTIONS = (
    "--online --part --images --size --normalise --mean --std --unused --ema --device --batch-size "
    "--workers --precision"
)
CRAFT_OPTIONS = (
    "--base --model --data --budget --share --recipe --metric --prior --threshold --free-singles "
    "--granularity --start --holdout --out "
    "--shard-size --force --test-part --refresh-part --init --seed --family --json"
)
BANK_OPTIONS = "--bank --labels --names --probabilities"
OUT_FILES: dict[str, Any] = {"nargs": "+", "action": "extend"}
# Where a command takes an option in another way than the others do.
DIFFERENT: dict[tuple[str, str], dict[str, Any]] = {
    ("craft", "--prior"): {
        "default": None,  # so that a prior of 0 asks for radin, too
        "help": "of radin: bonus of the full zoo in points (0)",
    },
    ("average", "--out"): {"required": True},
    ("rank", "checkpoints"): {"nargs": "*"},
    ("rank", "--model"): {"required": False},
    ("rank", "--data"): {"required": False},
    ("rank", "--out"): OUT_FILES
    | {
        "help": "tables of the candidates, .csv or .json, and mergekit's recipe of the first one, "
        ".yml"
    },
    ("ask", "--out"): OUT_FILES
    | {"help": "the soup to evaluate: weights as .json, or mergekit's recipe, .yml"},
    ("ask", "--recipe"): {
        "type": _recipe_by_accuracy,
        "help": f"how to spend them: {', '.join(RECIPE_NAMES)} (safe; radin with --prior)",
    },
    ("bench", "--recipe"): {
        "default": None,
        "help": "one more row: package.module:function, a function of your own from a bank and a "
        "ledger to mixing weights",
    },
    ("tell", "--force"): {"help": "take an accuracy of 1 percent or less for a soup that failed"},
}


class Command(NamedTuple):
    """One command of `radin`.

    Attributes:
        home: the module below `radin.cli` with the function that does the work.
        options: its arguments, names in `OPTIONS`.
        about: what it does.
        example: the arguments of an example.
        advice: which of its options to try, in lines; empty without any.
    """

    home: str
    options: str
    about: str
    example: str
    advice: str = ""


RECIPE_ADVICE = """\
which recipe:
  safe     for checkpoints that you do not know yet: the best one is kept unless a soup beats it
  learned  with --granularity tensor, if there is time for training: soups that no subset is;
           radin bench cifar10 shows what they reached
  greedy   for a budget of one evaluation for each further checkpoint
  radin    as in the paper, where the report's checks say that the ranking can be believed

"""
COMMANDS = {
    "craft": Command(
        home="commands",
        options=f"checkpoints {CRAFT_OPTIONS} {IMAGE_OPTIONS}",
        about="Rank candidate soups by their ensembles, average and evaluate the best few, keep "
        "the winner.",
        example="'runs/*.pt' --model open_clip:ViT-B-32-quickgelu "
        "--data imagenet-folder:/imagenet --out soup.safetensors",
        advice=RECIPE_ADVICE,
    ),
    "rank": Command(
        home="commands",
        options=f"checkpoints {BANK_OPTIONS} --base --model --data --metric --top --prior --init "
        f"--seed --family --out --force --json {IMAGE_OPTIONS}",
        about="Rank candidate soups by their ensembles, which is stage 1 alone: no soup is "
        "evaluated. With --bank, the logits of another program are ranked.",
        example="runs --model timm:resnet50 --normalise imagenet --data imagenet-folder:/flowers "
        "--top 20",
    ),
    "average": Command(
        home="commands",
        options="checkpoints --base --ema --weights --family --out --shard-size --force",
        about="Average checkpoints into one file, without a network or images.",
        example="a.safetensors b.safetensors --weights 0.7,0.3 --out soup.safetensors",
    ),
    "evaluate": Command(
        home="commands",
        options=f"soup --base --model --data --metric --json {IMAGE_OPTIONS}",
        about="Measure the accuracy, or another metric, of one soup or any checkpoint; "
        "with --part val,test a table of several parts.",
        example="soup.safetensors --model open_clip:ViT-B-32-quickgelu --data imagenet "
        "--part val,test,v2,sketch,r,a",
    ),
    "ask": Command(
        home="banks",
        options=f"ledger {BANK_OPTIONS} --budget --recipe --metric --prior --seed --out --force",
        about="Say which soup of your own networks to average and evaluate next, as craft would; "
        "after the first call the ledger is enough.",
        example="ledger.json --bank 'logits/*.npy' --labels labels.npy --budget 8",
    ),
    "tell": Command(
        home="banks",
        options="ledger value --trial --force",
        about="Write down what the evaluation of that soup gave; radin ask then goes on.",
        example="ledger.json 81.25 --trial 3",
    ),
    "families": Command(
        home="family_options",
        options="checkpoints --plot",
        about="Find which checkpoints belong together: the families that share an architecture "
        "and a start.",
        example="'downloads/*.safetensors' --plot families.png",
    ),
    "bench": Command(
        home="commands",
        options="name --budget --recipe --metric --seed --json",
        about="Replay the recipes on a zoo whose soups have been evaluated; needs no images.",
        example="cifar10 --budget 8",
    ),
    "fetch": Command(
        home="commands",
        options="dataset --ids --to",
        about="Download a data set, or the published ingredients of Model soups (456 MB each) "
        "and their results.",
        example="model-soups --ids 0-12,43",
    ),
}


def command_function(name: str) -> Callable[[argparse.Namespace], None]:
    """The function that does the work of a command. Its module is imported now: it needs torch."""
    home = import_module(f"radin.cli.{COMMANDS[name].home}")
    function: Callable[[argparse.Namespace], None] = getattr(home, f"{name}_command")
    return function


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="radin",
        allow_abbrev=False,
        description="Which of N models fine-tuned from one start should be averaged into one soup? "
        "radin COMMAND --help explains a command by an example.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.about,
            description=command.about,
            epilog=f"{command.advice}example:\n  radin {name} {command.example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=name, usage_error=subparser.error)
        for option in command.options.split():
            subparser.add_argument(option, **OPTIONS[option] | _different(name, option))
    return parser


def _different(name: str, option: str) -> dict[str, Any]:
    """How a command takes an option where it differs from the others."""
    different = DIFFERENT.get((name, option), {})
    # What is not given to `ask` is as the ledger has it.
    if name == "ask" and option.removeprefix("--") in ASK_OPTIONS:
        ordinary = OPTIONS[option]
        help_text = ordinary["help"].replace("%(default)s", str(ordinary["default"]))
        different = {"help": help_text} | different | {"default": None}
    return different


if __name__ == "__main__":
    sys.exit(main())
