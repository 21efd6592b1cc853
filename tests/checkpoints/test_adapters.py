"""Adapters as peft writes them: which are read, how they meet their base, and which are refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import radin
from adapters import (
    Layers,
    adapted_model,
    change_settings,
    make_adapters,
    peft_library,
    save_adapted,
    save_base,
    start,
)
from radin.checkpoints.adapters import find_adapters, open_adapter
from radin.errors import CheckpointError, ParameterError

PLAIN = {"r": 2, "target_modules": ["fc"]}
FACTORS = "base_model.model.fc.lora_{}.weight"


def close(got, expected) -> None:
    torch.testing.assert_close(dict(got), expected, rtol=2e-6, atol=2e-6)


@pytest.fixture
def base(tmp_path) -> Path:
    return save_base(Layers, tmp_path / "base.safetensors")


# Real transformers -------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (gpt2, {"target_modules": ["c_attn", "c_proj"]}),  # stored as (in, out), one of them square
        (gpt2, {"target_modules": ["c_fc"], "r": 3, "use_rslora": True}),
        (bert, {"target_modules": ["query", "dense"], "task_type": "SEQ_CLS"}),
        (bert, {"target_modules": ["word_embeddings", "value"], "task_type": "SEQ_CLS"}),
    ],
)
@pytest.mark.parametrize("with_model", [False, True])
def test_real_models(tmp_path, build, settings, with_model):
    model = adapted_model(build, **settings)
    merged = save_adapted(model, tmp_path / "runs" / "a")
    plain = build()
    plain.load_state_dict(start(build))
    plain.save_pretrained(tmp_path / "base")
    zoo = radin.open_adapters(
        tmp_path / "runs", tmp_path / "base", build if with_model else None, progress=False
    )
    got = dict(zoo[0])
    close(got, {key: merged[key] for key in got})
    assert with_model <= (set(got) == set(merged))


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def test_a_base_whose_file_has_other_names_than_its_modules(tmp_path):
    """Newer versions of transformers save a ViT under the names of older ones."""
    model = vit()
    model.load_state_dict(start(vit))
    model.save_pretrained(tmp_path / "base")
    made = [{"r": r, "target_modules": r".*\.(query|q_proj)"} for r in (1, 2)]
    merged = make_adapters(vit, tmp_path / "adapters", made)
    zoo = radin.open_adapters(tmp_path / "adapters", tmp_path / "base", progress=False)
    for k, expected in enumerate(merged):
        close(zoo[k], expected)


def test_the_network_of_an_ingredient_gives_what_peft_s_gives(tmp_path):
    model = adapted_model(bert, target_modules=["query", "dense"], task_type="SEQ_CLS").eval()
    tokens = torch.arange(8).view(1, 8)
    with torch.no_grad():
        expected = model(tokens).logits
    save_adapted(model, tmp_path / "a")
    base = save_base(bert, tmp_path / "base.safetensors")
    zoo = radin.open_adapters(tmp_path / "a", base, bert, progress=False)
    with torch.no_grad():
        torch.testing.assert_close(zoo.model(0)(tokens).logits, expected, rtol=1e-5, atol=1e-6)


# The base ----------------------------------------------------------------------------------------


def test_the_base_is_the_start_of_the_zoo(tmp_path, base):
    merged = make_adapters(Layers, tmp_path / "runs", [PLAIN, {"target_modules": ["conv2d"]}])
    zoo = radin.open_adapters(tmp_path / "runs", base, Layers, progress=False)
    before = start(Layers)
    close(zoo.init, before)
    flat = torch.cat([each.flatten() for each in before.values()]).double()
    for k, state in enumerate(merged):
        other = torch.cat([state[key].flatten() for key in before]).double()
        assert zoo.distances[k] == pytest.approx(
            ((other - flat).norm() / flat.norm()).item(), rel=1e-5
        )
        cosine = other @ flat / other.norm() / flat.norm()
        assert zoo.cosines[k] == pytest.approx(cosine.item(), rel=1e-6)


@pytest.mark.parametrize("prefix", ["model.", "net.backbone."])
def test_the_base_has_a_prefix_more_or_less(tmp_path, prefix):
    merged = save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    long = {prefix + key: tensor for key, tensor in start(Layers).items()}
    save_file(long, tmp_path / "long.safetensors")
    zoo = radin.open_adapters(tmp_path / "a", tmp_path / "long.safetensors", progress=False)
    close(zoo[0], {prefix + key: tensor for key, tensor in merged.items()})
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {
        key.replace("base_model.model.", f"base_model.model.{prefix}"): each
        for key, each in load_file(path).items()
    }
    save_file(tensors, path)
    zoo = radin.open_adapters(
        tmp_path / "a", save_base(Layers, tmp_path / "base.safetensors"), progress=False
    )
    close(zoo[0], merged)


def test_a_head_that_only_the_adapters_have(tmp_path):
    settings = PLAIN | {"modules_to_save": ["head"]}
    merged = make_adapters(Layers, tmp_path / "runs", [settings, settings])
    body = {key: each for key, each in start(Layers).items() if not key.startswith("head")}
    save_file(body, tmp_path / "base.safetensors")
    zoo = radin.open_adapters(
        tmp_path / "runs", tmp_path / "base.safetensors", Layers, progress=False
    )
    close(zoo[1], merged[1])
    assert zoo.init is None
    assert any(note.startswith("trained as a whole and averaged") for note in zoo.notes)


def test_a_file_of_torch_is_read(tmp_path, base):
    merged = save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a", safe=False)
    assert [path.suffix for path in (tmp_path / "a").glob("adapter_model*")] == [".bin"]
    close(radin.open_adapters(tmp_path / "a", base, progress=False)[0], merged)


def test_half_precision_keeps_the_dtype_of_the_base(tmp_path):
    save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    half = {key: each.bfloat16() for key, each in start(Layers).items()}
    save_file(half, tmp_path / "base.safetensors")
    zoo = radin.open_adapters(tmp_path / "a", tmp_path / "base.safetensors", progress=False)
    adapter = open_adapter(tmp_path / "a")
    up, down = (adapter.tensors[FACTORS.format(which)].double() for which in "BA")
    expected = (half["fc.weight"].double() + 4 * up @ down).bfloat16()
    assert torch.equal(zoo[0]["fc.weight"], expected)


def test_another_base_is_refused(tmp_path, base):
    save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    change_settings(tmp_path / "a", base_model_name_or_path="org/model")
    for states, message in [
        ({"other.weight": torch.ones(2, 2)}, "lacks 1 of the 1 modules.*fc; give.*org/model"),
        ({"fc.weight": torch.ones(6, 9)}, r"do not fit fc\.weight of the base, \(6, 9\)"),
        ({"fc.weight": torch.ones(6, 8).to(torch.int8)}, "quantised in the base"),
    ]:
        save_file(states, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=message):
            radin.open_adapters(tmp_path / "a", tmp_path / "other.safetensors", progress=False)
    with pytest.raises(CheckpointError, match="an adapter, not a base"):
        radin.open_adapters(tmp_path / "a", tmp_path / "a", progress=False)


def test_adapters_of_several_bases_are_named(tmp_path, base):
    make_adapters(Layers, tmp_path / "runs", [PLAIN, PLAIN])
    for k in range(2):
        change_settings(tmp_path / "runs" / f"run_{k}", base_model_name_or_path=f"base_{k}")
    with pytest.warns(UserWarning, match="name different base models .'base_0'.*'base_1'"):
        radin.open_adapters(tmp_path / "runs", base, progress=False)


def test_a_tied_weight_is_refused(tmp_path):
    save_adapted(adapted_model(Layers, target_modules=["embed"]), tmp_path / "a")
    tied = start(Layers)
    torch.save(tied | {"out.weight": tied["embed.weight"]}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=r"changes embed\.weight, which is tied to out\.wei"):
        radin.open_adapters(tmp_path / "a", tmp_path / "base.pt", progress=False)


def test_square_weights_of_an_unclear_layout_are_refused(tmp_path):
    """GPT-2's layers are stored as (in, out), its head is not, and peft stores one setting."""
    model = adapted_model(gpt2, target_modules=["c_attn", "attn.c_proj"])
    merged = save_adapted(model, tmp_path / "a")
    base = save_base(gpt2_tensors, tmp_path / "base.safetensors")
    change_settings(tmp_path / "a", fan_in_fan_out=False)
    with pytest.raises(CheckpointError, match=r"not clear how the square ones of .*attn\.c_proj"):
        radin.open_adapters(tmp_path / "a", base, progress=False)
    zoo = radin.open_adapters(tmp_path / "a", base, gpt2, progress=False)
    close(zoo[0], {key: merged[key] for key in zoo.keys()})


def gpt2_tensors() -> nn.Module:
    """GPT-2 with a copy of the embedding in its head, as safetensors refuses tied tensors."""
    model = gpt2()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


# Refused by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias='all'"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": {"embed": [1]}}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"target_modules": ["grouped"]}, "convolution in groups"),
        ({"target_modules": ["attention"]}, "MultiheadAttention"),
    ],
)
def test_what_peft_makes_beside_plain_lora_is_refused(tmp_path, settings, message):
    model = adapted_model(Layers, **PLAIN | settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_adapter(tmp_path / "a")
    assert "merge_and_unload" in str(caught.value)


@pytest.mark.parametrize("name", ["LoHaConfig", "LoKrConfig", "IA3Config", "OFTConfig"])
def test_other_types_are_refused(tmp_path, name):
    peft = peft_library()
    more = {"feedforward_modules": []} if name == "IA3Config" else {}
    config = getattr(peft, name)(target_modules=["fc"], **more)
    peft.get_peft_model(Layers(), config).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"peft_type '\w+', and radin averages LORA alone"):
        open_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"some_new_setting": 3}, "some_new_setting"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["fc.weight"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"r": 3}, "have rank 2, but adapter_config.json says 3"),
        ({"r": "two"}, "the rank r of fc is 'two'"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern holds no valid pattern"),
        ({"rank_pattern": [2]}, "rank_pattern is no dict"),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path, settings, message):
    save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    change_settings(tmp_path / "a", **settings)
    with pytest.raises(CheckpointError, match=message):
        open_adapter(tmp_path / "a")


def test_a_scale_that_is_no_number_is_refused(tmp_path, base):
    save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    change_settings(tmp_path / "a", lora_alpha=float("nan"))
    with pytest.raises(CheckpointError, match="the lora_alpha of fc is nan"):
        radin.open_adapters(tmp_path / "a", base, progress=False)


def test_damaged_factors_are_refused(tmp_path, base):
    save_adapted(adapted_model(Layers, **PLAIN), tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    good = load_file(path)
    for change, message in [
        ({FACTORS.format("B"): good[FACTORS.format("B")] * torch.inf}, "NaN or infinite"),
        ({FACTORS.format("A"): torch.zeros(0)}, "is no factor"),
        ({"base_model.model.fc.lora_magnitude_vector": torch.ones(6)}, "no factor of LoRA as peft"),
        ({"fc.lora_A.weight": torch.ones(2, 8)}, "no factor of LoRA as peft"),
    ]:
        save_file(good | change, path)
        with pytest.raises(CheckpointError, match=message):
            radin.open_adapters(tmp_path / "a", base, progress=False)
    save_file({FACTORS.format("A"): good[FACTORS.format("A")]}, path)
    with pytest.raises(CheckpointError, match="fc has no B"):
        open_adapter(tmp_path / "a")


def test_other_heads_are_refused(tmp_path, base):
    make_adapters(Layers, tmp_path / "runs", [PLAIN | {"modules_to_save": ["head"]}, PLAIN])
    with pytest.raises(CheckpointError, match=r"not the same modules.*head\.bias, head\.weight"):
        radin.open_adapters(tmp_path / "runs", base, progress=False)


# Which folders are meant -------------------------------------------------------------------------


def test_folders_globs_and_lists(tmp_path):
    make_adapters(Layers, tmp_path, [PLAIN] * 3)
    (tmp_path / "logs").mkdir()
    folders = [tmp_path / f"run_{k}" for k in range(3)]
    assert find_adapters(tmp_path).paths == folders
    assert "logs" in find_adapters(tmp_path).notes[0]
    assert find_adapters(str(tmp_path / "run_*")).paths == folders
    assert find_adapters(str(tmp_path / "*" / "adapter_model.safetensors")).paths == folders
    assert find_adapters(folders[::-1]).paths == folders[::-1]
    assert find_adapters(folders[1] / "adapter_config.json").paths == [folders[1]]
    with pytest.raises(CheckpointError, match="no adapter of peft found there"):
        find_adapters(tmp_path / "logs")
    with pytest.raises(CheckpointError, match="a zoo needs at least one"):
        find_adapters([])


def test_a_soup_is_no_ingredient(tmp_path, base):
    make_adapters(Layers, tmp_path / "runs", [PLAIN] * 2)
    zoo = radin.open_adapters(tmp_path / "runs", base, progress=False)
    radin.save_adapter(zoo, [0.5, 0.5], tmp_path / "runs" / "soup")
    again = radin.open_adapters(tmp_path / "runs", base, progress=False)
    assert again.names == zoo.names == ["run_0", "run_1"]
    assert again.notes[0] == "left aside, 1 adapter that radin wrote itself: soup"
    assert [note.split(":")[0] for note in again.notes[1:]] == ["base not checked"]
    with pytest.warns(UserWarning, match="is a soup of"):
        radin.open_adapters([*(p.parent for p in zoo.paths), tmp_path / "runs" / "soup"], base)


def test_equal_adapters_and_untrained_ones_are_named(tmp_path, base):
    make_adapters(Layers, tmp_path / "runs", [PLAIN, PLAIN | {"init_lora_weights": True}])
    shutil.copytree(tmp_path / "runs" / "run_0", tmp_path / "runs" / "run_9")
    with pytest.warns(UserWarning, match="duplicates: .*run_9.* same weights as .*run_0"):
        zoo = radin.open_adapters(tmp_path / "runs", base, progress=False)
    assert any(note.startswith("distance 0: ") and "run_1" in note for note in zoo.notes)


def test_a_zoo_of_checkpoints_takes_no_adapters(tmp_path, base):
    """Adapters that share A and differ in alpha: the average of B alone would be another one."""
    make_adapters(Layers, tmp_path / "runs", [PLAIN, PLAIN])
    shutil.copy(
        tmp_path / "runs" / "run_0" / "adapter_model.safetensors",
        tmp_path / "runs" / "run_1" / "adapter_model.safetensors",
    )
    change_settings(tmp_path / "runs" / "run_1", lora_alpha=99)
    with pytest.raises(CheckpointError, match=r"LoRA adapters.*radin\.open_adapters"):
        radin.Zoo.open(tmp_path / "runs", progress=False)
    with pytest.raises(CheckpointError, match=r"a LoRA adapter, and families are found among"):
        radin.families(tmp_path / "runs", progress=False)
    with pytest.raises(ParameterError, match="needs build"):
        radin.open_adapters(tmp_path / "runs", base, unused="skip")
