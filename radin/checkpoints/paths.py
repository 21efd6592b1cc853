"""Which checkpoint files a path, a folder, a glob or a list of these means."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from radin.checkpoints.adapter_config import CONFIG_NAME
from radin.checkpoints.formats import CHECKPOINT_SUFFIXES, INDEX_SUFFIXES, read_index
from radin.checkpoints.origin import is_soup, is_store, soup_ingredients
from radin.errors import CheckpointError, counted, list_names
from radin.files import NO_SUCH_FILE, describe_unreadable, expand_path, natural_order

_TAR_SUFFIXES = (".pth.tar", ".pt.tar")  # as torch's own ImageNet example names its files
_ENDINGS = (*CHECKPOINT_SUFFIXES, *INDEX_SUFFIXES, *_TAR_SUFFIXES)
# What other programs write weights to. Such a file in a folder may be a model that was meant.
_FOREIGN_ENDINGS = (
    *(".pkl", ".pickle", ".h5", ".hdf5", ".keras", ".msgpack", ".npz", ".onnx", ".gguf", ".tar"),
    *(".th", ".params", ".pdparams", ".t7", ".distcp", ".mar", ".caffemodel", ".pb", ".tflite"),
)
# What training programs save beside the weights: Hugging Face's Trainer, Accelerate, torchtune.
_SIDE_FILE = re.compile(
    r"(optimi[sz]ers?|optim|(lr_?)?scheduler|rng_states?|random_states?|training_args|sampler|"
    r"dl_state_dict|(grad_?)?scaler|trainer_state)(_state(_dict)?)?([_.-]?\d+)*",
    re.IGNORECASE,
)
_SHARD = re.compile(r"\d+[-_]of[-_]0*(\d+)\.(safetensors|bin)$")


class Found(NamedTuple):
    """The checkpoints that an argument means.

    Attributes:
        paths: a file for each, an index where it is in shards.
        notes: what was found there and left aside, a line for each reason.
    """

    paths: list[Path]
    notes: list[str]


# One checkpoint ----------------------------------------------------------------------------------


def locate(path: str | Path) -> Path:
    """The file that a path means: itself, or the index of the shards that it belongs to.

    A folder means the one index of shards in it, or the one checkpoint file in it.

    Raises:
        CheckpointError: a folder that cannot be read, or with no such file or several; or a shard
            without its index.
    """
    if not os.fspath(path):  # of an unset variable of the shell; Path would make it "."
        raise CheckpointError("An empty text is no path; give a checkpoint file or a folder.")
    path = expand_path(path)
    if os.path.isdir(path):
        return _locate_in(path)
    if not os.path.exists(path):
        index = path.with_name(f"{path.name}.index.json")  # of a checkpoint saved in shards
        return index if os.path.isfile(index) else path
    return _index_of_shard(path) or path


def _locate_in(folder: Path) -> Path:
    names = _visible_names(folder)
    indices = [name for name in names if name.endswith(INDEX_SUFFIXES)]
    found = indices or _weight_names(names)
    if len(found) == 1:
        return folder / found[0]
    raise CheckpointError(
        f"{folder}: a folder is one checkpoint when it holds one "
        f"*{' or *'.join(INDEX_SUFFIXES)}, or one checkpoint file, and this one holds "
        f"{f'several: {list_names(found)}' if found else 'none'}; {_way_out(folder, found)}."
    )


def _way_out(folder: Path, found: Sequence[str]) -> str:
    """What to do with a folder that is no checkpoint, or holds several."""
    for _, _, names in os.walk(folder):
        if any(re.fullmatch(r".*_(model|optim)_states\.pt|zero_to_fp32\.py", n) for n in names):
            return (
                "it looks like DeepSpeed's, whose zero_to_fp32.py makes one file of it; give that "
                "file"
            )
        if any(name.endswith(".distcp") for name in names):
            return (
                "it looks like one of torch.distributed.checkpoint, whose dcp_to_torch_save makes "
                "one file of it; give that file"
            )
    inner = [name for name in _visible_names(folder) if _holds_checkpoint(folder / name)]
    adapters = [name for name in inner if os.path.isfile(folder / name / CONFIG_NAME)]
    if adapters and not found:
        return (
            f"it holds {counted(len(adapters), 'LoRA adapter')}: {list_names(adapters, most=4)}; "
            "give this folder alone, and the base of the adapters by --base (radin.open_adapters "
            "in Python)"
        )
    every = f"all of them as '{glob.escape(str(folder))}/*'"
    if inner and not found:
        return (
            f"its folders hold {counted(len(inner), 'checkpoint')}: {list_names(inner, most=4)}; "
            f"give one of these folders, or {every}"
        )
    return f"give one of these files, or {every}" if found else "give the checkpoint file itself"


def _index_of_shard(path: Path) -> Path | None:
    """The index that names a shard; None for a file that is no shard."""
    match = _SHARD.search(path.name)
    if match is None:
        return None
    # A shard may lie in a folder below its index.
    for folder in (path.parent, path.parent.parent):
        for name in _visible_names(folder):
            if name.endswith(INDEX_SUFFIXES):
                shards = {folder / each for each in read_index(folder / name).values()}
                if path in shards:
                    return folder / name
    if int(match[1]) == 1:  # the only one, which is the whole checkpoint
        return None
    raise CheckpointError(
        f"{path}: one of {match[1]} shards of a checkpoint, and no index (*.index.json) beside it "
        "names it; copy the index there, and give that."
    )


# Several -----------------------------------------------------------------------------------------


def find_checkpoints(paths: str | Path | Iterable[str | Path]) -> Found:
    """The checkpoint files that the argument of `Zoo.open` means, in natural order.

    A list keeps its own order. Of a folder or a glob, files that lie there and are no ingredients
    are left aside: the shards of an index, what a training program saves beside the weights, what
    radin wrote itself, and further names of one file.

    Raises:
        CheckpointError: nothing is found, or a folder or shard that is no checkpoint.
    """
    found = _find(paths) if isinstance(paths, str | Path) else _from_list(paths)
    if stores := [path for path in found.paths if is_store(path)]:
        raise CheckpointError(
            f"{list_names(stores)}: a bank, a bench or predictions that radin wrote, no "
            "checkpoint; leave it out."
        )
    return found


def _find(path: str | Path) -> Found:
    """The checkpoints that one path or glob means."""
    expanded = expand_path(path)
    if not (os.fspath(path) and os.path.isdir(expanded)) and os.path.isfile(file := locate(path)):
        return Found([file], [])
    path = expanded
    found = _in_folder(path) if os.path.isdir(path) else _matched(str(path))
    kept, notes = _leave_aside(found.paths)
    if not kept:
        raise CheckpointError(_nothing_found(path))
    return Found(sorted(kept, key=natural_order), [*found.notes, *notes])


def _from_list(paths: Iterable[str | Path]) -> Found:
    """The files of a list, which the shell may have made of a glob."""
    found: list[Path] = []
    notes: list[str] = []
    through_shards: set[Path] = set()
    folders: list[Path] = []
    for given in paths:
        path = expand_path(given)
        if glob.has_magic(str(path)) and not os.path.lexists(path):
            matched = _find(path)
            found += matched.paths
            notes += matched.notes
            continue
        located = locate(given)
        is_shard = located != path and os.path.isfile(path)
        if located in through_shards or (is_shard and located in found):
            continue
        if is_shard:
            through_shards.add(located)
        elif located != path:
            folders.append(path)
        found.append(located)
    if not found:
        raise CheckpointError("No checkpoints given: a zoo needs at least one ingredient.")
    notes += _note_side_files(_side_files(folders))
    soups = [path.name for path in found if is_soup(path)]
    if len(soups) < len(found):
        notes += _note("soup", soups, "that radin wrote", start="among the files given, ")
    return Found(found, notes)


def _in_folder(folder: Path) -> Found:
    """The checkpoints in a folder; where it holds none, those of the folders in it."""
    names = _visible_names(folder)
    files = [folder / name for name in names if _has_ending(name, _ENDINGS)]
    foreign = [
        name
        for name in names
        if _has_ending(name, _FOREIGN_ENDINGS) and not _has_ending(name, _ENDINGS)
    ]
    notes = _note("file", foreign, "of other programs")
    inner = [folder / name for name in names if _holds_checkpoint(folder / name)]
    if inner and all(_is_side_file(path.name) for path in files):
        side = [*(path.name for path in files), *_side_files(inner)]
        return Found([locate(path) for path in inner], [*notes, *_note_side_files(side)])
    located = [locate(path) if os.path.isdir(path) else path for path in files]
    below = [path.name for path in inner if path not in files]
    return Found(located, [*notes, *_note("folder", below, "with checkpoints inside")])


def _matched(pattern: str) -> Found:
    """What a glob matches: checkpoint files, and folders that are one checkpoint each."""
    matches = _glob(pattern)
    files = [path for path in matches if not os.path.isdir(path)]
    usual = [path for path in files if _has_ending(path.name, _ENDINGS)]
    located = []
    opened = []
    empty = []
    locked = []
    for folder in (path for path in matches if os.path.isdir(path)):
        if describe_unreadable(folder):
            locked.append(folder.name)
            continue
        inner = {folder / name for name in _weight_names(_visible_names(folder), indices=True)}
        if inner and inner <= {*files}:  # "**" matches a folder and what it holds
            continue
        if inner or _has_ending(folder.name, _ENDINGS):
            located.append(locate(folder))
            opened.append(folder)
        else:
            empty.append(folder.name)
    chosen = usual if usual or located else files
    notes = [
        *_note("file", [each.name for each in files if each not in chosen], "of other kinds"),
        *_note("folder", empty, "without a checkpoint"),
        *_note("folder", locked, "without the permission to read"),
        *_note_side_files(_side_files(opened)),
    ]
    return Found([*chosen, *located], notes)


def _glob(pattern: str) -> list[Path]:
    """The matches of a glob.

    Brackets that match nothing are taken as they are where such a folder exists: Hydra names its
    folders `losses=[a,b]`.
    """
    matches = glob.glob(pattern, recursive=True)
    if not matches and "[" in pattern:
        matches = glob.glob(_escape_existing(pattern), recursive=True)
    return sorted({Path(match) for match in matches}, key=natural_order)


def _escape_existing(pattern: str) -> str:
    """The glob with the special letters of those folders escaped that exist under that name."""
    path = Path(Path(pattern).anchor)
    escaped = path
    for part in Path(pattern).relative_to(path).parts:
        exists = os.path.lexists(path / part)
        path = path / part
        escaped = escaped / (glob.escape(part) if exists else part)
    return str(escaped)


def _leave_aside(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files of a folder or glob without those that are no ingredients, and notes on these."""
    files = _without_shards(paths)
    kept, aliases = _without_aliases(files)
    side = {path for path in kept if _is_side_file(path.name)}
    soups = {path for path in kept if is_soup(path)}
    stores = {path for path in kept if is_store(path)}
    aside = side | soups | stores
    chosen = [path for path in kept if path not in aside]
    if not chosen:  # nothing else is there, so these are meant
        aside -= soups or side or stores
        chosen = [path for path in kept if path not in aside]
    in_training = [path.name for path in kept if path in aside & side]
    notes = [
        *_note_side_files(in_training),
        *_note("file", [p.name for p in kept if p in aside - side], "that radin wrote itself"),
        *_note("link", [path.name for path in aliases], "to what counts already"),
    ]
    return chosen, notes


def _without_shards(paths: Sequence[Path]) -> list[Path]:
    """The files with the index in the place of its shards."""
    indices = {path for path in paths if path.name.endswith(INDEX_SUFFIXES)}
    shards = {index.parent / name for index in indices for name in read_index(index).values()}
    rest = [path for path in paths if path not in shards]
    return list(dict.fromkeys(_index_of_shard(path) or path for path in rest))


def _without_aliases(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Each file once, and the links such as `latest.pt` that lead to another one of these files.

    The saver of timm makes hard links, which are names of one file as well.
    """
    by_file: dict[object, list[Path]] = {}
    for path in paths:
        by_file.setdefault(_identity(path), []).append(path)
    kept = [min(names, key=_is_further_name) for names in by_file.values()]
    return kept, [path for path in paths if path not in kept]


def _identity(path: Path) -> object:
    """Equal for two names of one file."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real)
    except OSError:  # a link to nothing, which is refused when it is opened
        return real
    return found.st_dev, found.st_ino


def _is_further_name(path: Path) -> tuple[bool, bool]:
    """The smaller, the more a name is the file's own: no link, and not below a linked folder."""
    return os.path.islink(path), os.path.abspath(path) != os.path.realpath(path)


def describe_soups(paths: Sequence[Path], fingerprints: Sequence[str]) -> str:
    """Which of the checkpoints are soups that radin made of others of them; empty when none is.

    Args:
        paths: N checkpoint files.
        fingerprints: N hashes of their tensors.
    """
    by_fingerprint = dict(zip(fingerprints, paths, strict=True))
    texts = []
    for path, own in zip(paths, fingerprints, strict=True):
        inside = {*soup_ingredients(path)} & by_fingerprint.keys() - {own}
        if inside:
            names = sorted(str(by_fingerprint[each]) for each in inside)
            texts.append(f"{path} is a soup of {list_names(names)}, which would count twice")
    return f"soups among their ingredients: {'; '.join(texts)}" if texts else ""


# Names -------------------------------------------------------------------------------------------


def _visible_names(folder: Path) -> list[str]:
    """The names in a folder, sorted, without hidden ones."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: could not be read ({error.strerror}); give a folder that may be read."
        ) from error


def _weight_names(names: Iterable[str], *, indices: bool = False) -> list[str]:
    """Those of the names in a folder that are checkpoint files."""
    endings = _ENDINGS if indices else (*CHECKPOINT_SUFFIXES, *_TAR_SUFFIXES)
    return [name for name in names if _has_ending(name, endings) and not _is_side_file(name)]


def _holds_checkpoint(folder: Path) -> bool:
    """Whether a folder has checkpoint files other than the shards of an index elsewhere."""
    if not os.path.isdir(folder) or describe_unreadable(folder):
        return False
    names = _weight_names(_visible_names(folder), indices=True)
    names = [name for name in names if name.endswith(INDEX_SUFFIXES) or not _SHARD.search(name)]
    return any(not is_store(folder / name) for name in names)


def _has_ending(name: str, endings: tuple[str, ...]) -> bool:
    return name.lower().endswith(endings)


def _is_side_file(name: str) -> bool:
    return _SIDE_FILE.fullmatch(os.path.splitext(name)[0]) is not None


def _side_files(folders: Iterable[Path]) -> list[str]:
    """What training programs saved beside the weights in some folders, as folder/name."""
    return [
        f"{folder.name}/{name}"
        for folder in sorted(folders, key=natural_order)
        if os.path.isdir(folder)
        for name in _visible_names(folder)
        if _is_side_file(name) and _has_ending(name, _ENDINGS)
    ]


def _note_side_files(names: Sequence[str]) -> list[str]:
    return _note("file", names, "of a training program beside the weights")


def _note(noun: str, names: Sequence[str], what: str, *, start: str = "left aside, ") -> list[str]:
    """One line that says what was left aside; none where there is nothing."""
    listed = list_names(names, most=4)
    return [f"{start}{counted(len(names), noun)} {what}: {listed}"] if names else []


def _nothing_found(path: Path) -> str:
    """Why a folder or glob gives no checkpoints, and what would."""
    message = f"{path}: no checkpoint found there; give files, a folder or a glob of "
    message += ", ".join(CHECKPOINT_SUFFIXES)
    folder = path
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    reason = describe_unreadable(folder) or describe_unreadable(path)
    if reason and reason != NO_SUCH_FILE:
        return f"{path}: no checkpoint found there, because it could not be read ({reason})."
    if "[" in str(path):
        message += ". In a glob, [ab] is one letter, a or b; write [[] for a bracket in a name"
    return f"{message}."
