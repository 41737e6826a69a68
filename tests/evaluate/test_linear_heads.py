"""Linear heads: side by side as if alone, on the tokens that the protocol names."""

import pytest
import torch
import torch.nn.functional as F

from solo_bam.backbones import create_backbone
from solo_bam.config.linear import Probe
from solo_bam.core.errors import UserError
from solo_bam.evaluate.heads import Heads, check_probe, parameter_groups, probed_features, probed_width
from solo_bam.solo_learn.schedule import build_optimizer, build_scheduler

RATES = [0.01, 0.3, 3.0]


def _learned(rates, batch_norm=True, name="sgd", steps=12):
    """Weights of heads that were trained together on the same batches."""
    heads = Heads(len(rates), 6, 4, batch_norm, seed=1)
    kwargs = {"momentum": 0.9} if name in ("sgd", "lars") else {}
    optimizer = build_optimizer(parameter_groups(heads, rates), name, rates[0], 1e-3, kwargs, False)
    scheduler = build_scheduler(optimizer, "warmup_cosine", "step", 3, steps, 1, 1e-4, 0.0, None)["scheduler"]
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        features, labels = torch.randn(8, 6, generator=generator), torch.randint(4, (8,), generator=generator)
        losses = torch.stack([F.cross_entropy(logits, labels) for logits in heads(features)])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        scheduler.step()
    return [(layer.weight.detach(), layer.bias.detach()) for layer in heads.layers]


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_head_of_a_sweep_is_the_head_alone(name, batch_norm):
    together = _learned(RATES, batch_norm, name)
    for rate, (weight, bias) in zip(RATES, together):
        [(alone, its_bias)] = _learned([rate], batch_norm, name)
        assert torch.equal(weight, alone)
        assert torch.equal(bias, its_bias)
    assert not torch.allclose(together[0][0], together[1][0])


def test_a_diverging_head_disturbs_no_other():
    together = _learned([0.3, 1e38], batch_norm=False)
    [(alone, _)] = _learned([0.3], batch_norm=False)
    assert torch.equal(together[0][0], alone)
    assert together[0][0].isfinite().all()


def test_gradients_of_a_diverged_head_are_zero():
    """A gradient scaler skips the step of every head where one gradient is not finite."""
    heads = Heads(2, 6, 4)
    with torch.no_grad():
        heads.layers[1].weight.fill_(float("inf"))
    torch.stack(
        [F.cross_entropy(logits, torch.zeros(8, dtype=int)) for logits in heads(torch.randn(8, 6))]
    ).sum().backward()
    assert (heads.layers[1].weight.grad == 0).all()
    assert (heads.layers[0].weight.grad != 0).any()


def test_the_heads_stay_in_their_own_precision():
    with torch.autocast("cpu", torch.bfloat16):
        assert Heads(2, 6, 4, batch_norm=True)(torch.randn(8, 6, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return create_backbone("vit_tiny", {"patch_size": 8}, crop_sizes=[16]).eval()


@torch.no_grad()
def test_tokens_are_those_of_the_protocol(vit):
    images = torch.randn(2, 3, 16, 16)
    tokens, outputs = vit.norm_pre(vit._pos_embed(vit.patch_embed(images))), []
    for block in vit.blocks:
        tokens = block(tokens)
        outputs.append(vit.norm(tokens))
    expected = torch.cat([*(out[:, 0] for out in outputs[-3:]), outputs[-1][:, 1:].mean(1)], dim=1)
    probe = Probe(blocks=3, avgpool=True)
    features = probed_features(vit, images, probe)
    torch.testing.assert_close(features, expected)
    assert features.shape[1] == probed_width(vit.num_features, probe)
    # The last [CLS] token alone is what the backbone gives.
    both = probed_features(vit, images, Probe(avgpool=True))
    torch.testing.assert_close(both[:, : vit.num_features], vit(images))


def test_only_a_vit_has_tokens(vit):
    resnet = create_backbone("resnet18")
    check_probe(resnet, "resnet18", Probe())
    with pytest.raises(UserError, match=r"probe.blocks: got 4, resnet18 is no ViT with a \[CLS\] token"):
        check_probe(resnet, "resnet18", Probe(blocks=4))
    with pytest.raises(UserError, match=r"probe.avgpool: got True, resnet18 is no ViT"):
        check_probe(resnet, "resnet18", Probe(avgpool=True))
    with pytest.raises(UserError, match="probe.blocks: got 13, vit_tiny has 12 blocks; lower it"):
        check_probe(vit, "vit_tiny", Probe(blocks=13))


def test_layers_near_the_images_learn_more_slowly(vit):
    groups = parameter_groups(Heads(1, 192, 4), [0.1], vit, "vit_tiny", weight_decay=0.05, layer_decay=0.5)
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == len(list(vit.parameters())) + 2  # each once, and the head's
    rate = [of[id(block.attn.qkv.weight)]["lr"] for block in vit.blocks]
    assert rate == pytest.approx([0.1 * 0.5 ** (12 - i) for i in range(12)])
    assert of[id(vit.patch_embed.proj.weight)]["lr"] == pytest.approx(0.1 * 0.5**13)
    assert of[id(vit.blocks[0].attn.qkv.weight)]["weight_decay"] == 0.05
    for free in (vit.blocks[0].attn.qkv.bias, vit.pos_embed, vit.cls_token):
        assert of[id(free)]["weight_decay"] == 0
    assert groups[-1]["lr"] == 0.1


def test_a_network_without_layers_has_no_layer_decay():
    resnet = create_backbone("resnet18")
    with pytest.raises(UserError, match="optimizer.layer_decay: got 0.5, resnet18 does not say which layers it has"):
        parameter_groups(Heads(1, 512, 4), [0.1], resnet, "resnet18", layer_decay=0.5)
    backbone, head = parameter_groups(Heads(1, 512, 4), [0.1], resnet)
    assert (backbone["lr"], head["lr"]) == (0.1, 0.1)
