"""Forward passes: the entry fee (many models, one pass over the data) and evaluations of soups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.bank import LogitBank, accuracy, check_labels, load_tensors
from radin.data import batches, fingerprint, mixed_batches
from radin.errors import BankError, DataError, ParameterError, check_whole
from radin.files import atomic_path, hash_text, store_folder
from radin.soup import average
from radin.zoo import Zoo

SoupLike = Tensor | Sequence[float] | Mapping[str, Tensor]  # mixing weights (N,), or a state dict

_FORMAT = "radin-predictions-1"
PROBE = 8  # images on which a stored prediction is compared with the network before it is trusted


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on; "auto" is the GPU when there is one, else the CPU.

    Raises ParameterError for a device that torch does not know or this machine does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # a device that exists can give a number back
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ParameterError(f"device={device!r} is not available here; use 'auto', 'cpu' or 'cuda'.") from error
    return chosen


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one CPU thread.

    On tiny networks a second thread costs more than it brings, and two programs at once that both ask
    for every core slow each other down tenfold.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def predict(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    cache: bool | Path = True,
    progress: bool = True,
) -> LogitBank:
    """Predict every ingredient on a split in one pass over the data: the entry fee of every recipe.

    Each ingredient's logits are kept in a store on disk under the content of its checkpoint, its
    layers, the images, their preprocessing and `dtype`. What is found there, and still holds on the
    first few images, is not predicted again, so a larger zoo costs only its new ingredients.

    Args:
        zoo: opened with `build`; the ingredients still to be predicted are held on the device together.
        split: gives (image, label) pairs, such as `load_split` returns. To find its bank in the store, a
            data set without a `fingerprint` of its own is read once more.
        dtype: precision the logits are kept in (torch.float32 or torch.float16); models run in their own.
        cache: the store's folder; True for the default one, False for none.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible device or dtype.
        DataError: an empty split or an unreadable image.
        BankError: NaN logits, or labels outside the classes.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ParameterError(f"dtype must be torch.float32 or torch.float16, not {dtype}.")
    chosen = pick_device(device)
    batch_size = check_whole("batch_size", batch_size, least=1)
    folder = store_folder(cache, "banks")
    found: dict[int, tuple[Tensor, Tensor]] = {}
    paths: list[Path] = []
    if folder is not None:
        shared = (_FORMAT, repr(zoo.model(0)), fingerprint(split), str(dtype))
        paths = [folder / f"{hash_text(print_, *shared)}.safetensors" for print_ in zoo.fingerprints]
        if any(path.exists() for path in paths):
            probe, _ = next(batches(split, PROBE))
            for k, path in enumerate(paths):
                if (stored := _stored(path)) is not None and _still_says(zoo.model(k), probe, stored[0], chosen):
                    found[k] = stored
    missing = [k for k in range(len(zoo)) if k not in found]
    if missing:
        found |= _run(zoo, missing, split, chosen, batch_size, dtype, progress)
    bank = LogitBank(torch.stack([found[k][0] for k in range(len(zoo))]), found[0][1], zoo.names)
    if folder is not None:
        for k in missing:  # only after the bank has been checked
            with atomic_path(paths[k]) as temporary:
                save_file({"logits": bank.logits[k].clone(), "labels": bank.labels}, temporary, {"format": _FORMAT})
    return bank


def _stored(path: Path) -> tuple[Tensor, Tensor] | None:
    try:
        tensors, _ = load_tensors(path, _FORMAT)
        return tensors["logits"], tensors["labels"]
    except (BankError, KeyError):  # absent or damaged: predict again
        return None


def _still_says(model: nn.Module, probe: Tensor, stored: Tensor, device: torch.device) -> bool:
    """Whether the model gives the stored logits on the first images.

    One checkpoint fits networks that differ in what no key can hold: an edited forward, a mean that
    the network subtracts, a setting of the user's own. Asking the network is surer than reading its code.
    """
    with torch.inference_mode():
        now = batch_logits(model.to(device), probe, device).float().cpu()
    return close_to_stored(now, stored[: len(probe)].float())


def close_to_stored(now: Tensor, known: Tensor) -> bool:
    """Whether logits are those that were stored: another device, batch size or precision moves them in the third
    digit at most."""
    return now.shape == known.shape and torch.allclose(now, known, rtol=0, atol=1e-2 * known.abs().max().item())


def _like(images: Tensor, model: nn.Module, device: torch.device) -> Tensor:
    """The images on the device, in the model's own precision."""
    parameter = next(model.parameters(), None)
    if parameter is None or not images.is_floating_point():
        return images.to(device)
    return images.to(device, parameter.dtype)


def batch_logits(
    model: nn.Module, images: Tensor, device: torch.device, state: Mapping[str, Tensor] | None = None
) -> Tensor:
    """One forward pass: (batch, C). DataError when the network does not take these images or gives no logits.

    Args:
        state: tensors to use in place of the model's own for this pass; gradients flow back into them.
    """
    try:
        x = _like(images, model, device)
        # A state dict names tied tensors more than once; each name then has its own (equal) value.
        answer = model(x) if state is None else functional_call(model, dict(state), (x,), tie_weights=False)
    except torch.OutOfMemoryError:  # a smaller batch_size mends it, and torch says so
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{type(model).__name__} cannot predict images of shape {tuple(images.shape[1:])} "
            f"({reason}); check size and channels, as in load_split(..., size=224)."
        ) from error
    if not isinstance(answer, Tensor) or answer.shape[:1] != images.shape[:1] or answer.ndim != 2:
        what = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise DataError(f"{type(model).__name__} must give logits (batch, classes) for a batch of images, not {what}.")
    return answer


def _run(
    zoo: Zoo,
    members: list[int],
    split: Dataset[Any],
    device: torch.device,
    batch_size: int,
    dtype: torch.dtype,
    progress: bool,
) -> dict[int, tuple[Tensor, Tensor]]:
    models = {k: zoo.model(k).to(device) for k in members}
    logits: dict[int, list[Tensor]] = {k: [] for k in members}
    labels: list[Tensor] = []
    steps = math.ceil(len(split) / batch_size)  # type: ignore[arg-type]
    with torch.inference_mode():
        for images, truth in tqdm(
            batches(split, batch_size),
            total=steps,
            desc=f"predicting {len(members)} ingredients",
            disable=not progress,
            leave=False,
        ):
            on_device = images.to(device)  # once, not once for each model
            labels.append(truth)
            for k, model in models.items():
                logits[k].append(batch_logits(model, on_device, device).to("cpu", dtype))
            check_labels(truth, logits[members[0]][-1].shape[-1])
    return {k: (torch.cat(logits[k]), torch.cat(labels)) for k in members}


def soup_logits(
    zoo: Zoo, soup: SoupLike, split: Dataset[Any], device: str = "auto", batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Average the ingredients and run the soup over a split.

    Args:
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.

    Returns: logits (n, C) in single precision and labels (n,), on the CPU.
    """
    chosen = pick_device(device)
    batch_size = check_whole("batch_size", batch_size, least=1)
    return _forward(zoo.model(_soup_state(zoo, soup)).to(chosen), split, chosen, batch_size)


class Evaluator:
    """What `radin.evaluator` returns: call it with mixing weights (N,) for the soup's accuracy in percent.

    Attributes:
        zoo, split: what it averages and what it predicts, for recipes that need more than an accuracy.
        device: where it computes.
        batch_size: images in one forward pass.
        refresh: training images on which every soup's batch norm is measured anew, or None.
    """

    def __init__(
        self,
        zoo: Zoo,
        split: Dataset[Any],
        device: str = "auto",
        batch_size: int = 256,
        refresh: Dataset[Any] | None = None,
    ) -> None:
        self.zoo, self.split, self.refresh = zoo, split, refresh
        self.device = pick_device(device)
        self.batch_size = check_whole("batch_size", batch_size, least=1)
        self._model = zoo.model(0).to(self.device)
        if refresh is not None:
            if isinstance(refresh, bool | str) or not hasattr(refresh, "__len__"):
                raise ParameterError(f"refresh takes a training split, as radin.load_split gives one, not {refresh!r}.")
            _check_batch_norm(self._model)
            batch_logits(self._model, next(batches(refresh, PROBE))[0], self.device)

    def __call__(self, soup: SoupLike) -> float:
        """Accuracy in percent of a soup, given as mixing weights (N,) or as a state dict of the zoo."""
        if self.refresh is not None:
            soup = refresh_batch_norm(self.zoo, soup, self.refresh, str(self.device), self.batch_size)
        self._model.load_state_dict(_soup_state(self.zoo, soup))
        return accuracy(*_forward(self._model, self.split, self.device, self.batch_size)).item()


def evaluator(
    zoo: Zoo, split: Dataset[Any], device: str = "auto", batch_size: int = 256, refresh: Dataset[Any] | None = None
) -> Evaluator:
    """A function from mixing weights (N,) to the soup's accuracy in percent, by a real forward pass.

    Each call is one evaluation of the budget: it averages the checkpoints and predicts the whole split.
    It also takes the state dict of a soup that no mixing weights describe.

    Args:
        refresh: training images; each soup then goes through `refresh_batch_norm` first, which costs a pass over them.

    Raises ParameterError for `refresh` where there is no batch norm to measure.
    """
    return Evaluator(zoo, split, device, batch_size, refresh)


def refresh_batch_norm(
    zoo: Zoo, soup: SoupLike, split: Dataset[Any], device: str = "auto", batch_size: int = 256
) -> dict[str, Tensor]:
    """The soup with the running statistics of its batch norm measured anew, by one pass over training images.

    An average of the ingredients' running statistics is not what the averaged network sees, so a soup with
    batch norm is judged fairly only after this pass. It costs one forward pass over the images of `split`, in
    training mode, and is not part of the budget; labels are not used and parameters do not change.

    Args:
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.
        split: training images. They are taken in a fixed random order and in batches of almost one size, since
            batch norm weighs all batches alike.

    Returns: a state dict on the CPU with the zoo's keys, which `evaluator` and `soup_logits` take.

    Raises:
        ParameterError: the network has no batch norm with running statistics, or an impossible device.
        DataError: an empty split, or images that do not fit the network.

    Source: Izmailov et al. 2018, section 3.2, and torch.optim.swa_utils.update_bn.
    """
    chosen = pick_device(device)
    batch_size = check_whole("batch_size", batch_size, least=1)
    model = zoo.model(_soup_state(zoo, soup)).to(chosen)
    _check_batch_norm(model)
    probe, _ = next(batches(split, PROBE))  # an empty split and images that do not fit are named here
    with torch.inference_mode():
        batch_logits(model, probe, chosen)
    update_bn((_like(images, model, chosen) for images in mixed_batches(split, batch_size)), model)
    state = model.state_dict()
    return {key: state[key].cpu() for key in zoo.keys()}


def _check_batch_norm(model: nn.Module) -> None:
    if not any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()):
        raise ParameterError(
            f"{type(model).__name__} has no batch norm with running statistics; evaluate the soup as it is."
        )


def _soup_state(zoo: Zoo, soup: SoupLike) -> Mapping[str, Tensor]:
    if not isinstance(soup, Mapping):
        return average(zoo, soup)
    shapes = {key: tuple(zoo[0][key].shape) for key in zoo.keys()}
    given = {key: tuple(tensor.shape) for key, tensor in soup.items()}
    wrong = sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))
    if wrong:
        raise ParameterError(
            f"This state dict does not fit the zoo; missing, extra or of another shape: {', '.join(wrong[:8])}."
        )
    return soup


def _forward(model: nn.Module, split: Dataset[Any], device: torch.device, batch_size: int) -> tuple[Tensor, Tensor]:
    logits, labels = [], []
    with torch.inference_mode():
        for images, truth in batches(split, batch_size):
            logits.append(batch_logits(model, images, device).float().cpu())
            check_labels(truth, logits[-1].shape[-1])
            labels.append(truth)
    return torch.cat(logits), torch.cat(labels)
