from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import diffusers.schedulers.scheduling_ddpm as ddpm
import pytest
import torch
from helpers import golden, near, part, scrambled
from torch import Tensor

from wfbench import diffusion, models
from wfbench.diffusion import STEPS, Sampler, betas, denoising_loss, gaussian, held_out_terms, hybrid_loss, q_sample, sample
from wfbench.diffusion.sampling import scheduler_of
from wfbench.errors import InputError
from wfbench.models import DiT

#: Relative: the reference rounds its coefficients to float32.
CLOSE = 1e-5


def close(actual: Tensor, expected: Tensor, what: str = "result") -> None:
    """Fail unless two tensors agree to `CLOSE` of the larger of 1 and the value."""
    scale = expected.abs().clamp_min(1)
    near(actual.double() / scale, expected / scale, what, CLOSE)


def tiny(**overrides: object) -> DiT:
    sizes = {"image_size": 4, "in_channels": 1, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return scrambled(models.create("dit-s-2", **(sizes | overrides)), 0.1)


def test_every_term_equals_the_reference() -> None:
    _, t = golden("dit_diffusion")
    near(betas(), t["betas"])
    x_t = q_sample(t["x0"], t["timestep"], t["noise"])
    close(x_t, t["x_t"], "x_t")
    found = hybrid_loss(t["model_output"], t["x0"], x_t, t["noise"], t["timestep"])
    assert {0, STEPS - 1} <= set(t["timestep"].tolist())
    for term in ("loss", "mse", "vb"):
        expected = t[term]
        near(getattr(found, term) / expected, torch.ones_like(expected), term, CLOSE)  # relative to the value, small as it is


BREAKS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "another floor of the variance": lambda c: c.update(log_beta_tilde=c["log_beta"]),
    "another ceiling of the variance": lambda c: c.update(log_beta=c["log_beta"] + 0.01),
    "another weight of x0": lambda c: c.update(of_start=c["of_start"] * 1.01),
    "another amount of noise": lambda c: c.update(sqrt_noise=c["sqrt_noise"] * 1.001),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_wrong_coefficient_is_seen_red(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = dict(gaussian._tables(torch.device("cpu")))
    BREAKS[what](tables)
    monkeypatch.setattr(gaussian, "_tables", lambda device: tables)
    with pytest.raises(AssertionError):
        test_every_term_equals_the_reference()


def shared_mean_gradient() -> Tensor:
    """The gradient that vb sends to ε̂."""
    _, t = golden("dit_diffusion")
    output = t["model_output"].clone().requires_grad_()
    hybrid_loss(output, t["x0"], t["x_t"], t["noise"], t["timestep"]).vb.sum().backward()
    eps, v = output.grad.chunk(2, dim=1)
    assert v.flatten(1).any(dim=1).all(), "the variance must learn at every step"
    return eps


def test_the_bound_sends_no_gradient_to_the_mean() -> None:
    assert not shared_mean_gradient().any()


def test_without_the_detach_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "detach", lambda x: x)
    assert shared_mean_gradient().any()


def test_the_squared_error_trains_the_mean_alone() -> None:
    _, t = golden("dit_diffusion")
    output = t["model_output"].clone().requires_grad_()
    hybrid_loss(output, t["x0"], t["x_t"], t["noise"], t["timestep"]).mse.sum().backward()
    eps, v = output.grad.chunk(2, dim=1)
    assert eps.any()
    assert not v.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_output_is_scored_in_float32_under_autocast(dtype: torch.dtype) -> None:
    _, t = golden("dit_diffusion")
    x0, noise, x_t = (t[key].float() for key in ("x0", "noise", "x_t"))
    half = t["model_output"].to(dtype)
    exact = hybrid_loss(half.double(), t["x0"], t["x_t"], t["noise"], t["timestep"])
    with torch.autocast("cpu", torch.bfloat16):
        found = hybrid_loss(half, x0, x_t, noise, t["timestep"])
        assert q_sample(x0.to(dtype), t["timestep"], noise).dtype == torch.float32
    for term in ("loss", "mse", "vb"):
        assert getattr(found, term).dtype == torch.float32
        close(getattr(found, term), getattr(exact, term), term)


def test_the_loss_is_finite_at_every_step_and_for_wild_outputs() -> None:
    t = torch.arange(STEPS)
    x0, noise = torch.rand(STEPS, 1, 4, 4) * 2 - 1, torch.randn(STEPS, 1, 4, 4)
    found = hybrid_loss(5 * torch.randn(STEPS, 2, 4, 4), x0, q_sample(x0, t, noise), noise, t)
    assert found.loss.isfinite().all()


def test_the_mass_of_all_bins_is_one() -> None:
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean, log_std = torch.tensor(0.3).double(), torch.tensor(math.log(0.2)).double()
    mass = gaussian._log_probability(values, mean, log_std).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    true = torch.distributions.Normal(mean, log_std.exp())
    assert mass[128].item() == pytest.approx(
        (true.cdf(values[128] + 1 / 255) - true.cdf(values[128] - 1 / 255)).item(), rel=2e-3
    )


# --- the training loss


def draws_of(seed: int, **arguments: object) -> tuple[float, dict[str, Tensor]]:
    """The loss, and what the model was called with."""
    seen: dict[str, Tensor] = {}
    model = tiny()

    def forward(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.update(x=x, t=t, y=y)
        return model(x, t, y)

    x, y = torch.zeros(64, 1, 4, 4), torch.arange(64) % 3
    loss = denoising_loss(3, **arguments)(forward, x, y, torch.Generator().manual_seed(seed))
    return loss.item(), seen


def test_all_draws_come_from_the_generator() -> None:
    torch.manual_seed(0)
    first, seen = draws_of(1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x, y = torch.zeros(64, 1, 4, 4), torch.arange(64) % 3
    model = tiny()
    after_build = torch.get_rng_state()
    assert denoising_loss(3)(model, x, y, torch.Generator().manual_seed(1)).item() == first
    assert torch.equal(torch.get_rng_state(), after_build)
    assert not torch.equal(before, after_build)
    _, other = draws_of(2)
    assert not torch.equal(seen["t"], other["t"])
    assert not torch.equal(seen["x"], other["x"])


def test_labels_are_dropped_at_their_rate_to_the_null_class() -> None:
    _, kept = draws_of(1, label_dropout=0.0)
    assert torch.equal(kept["y"], torch.arange(64) % 3)
    _, all_dropped = draws_of(1, label_dropout=1.0)
    assert (all_dropped["y"] == 3).all()
    _, some = draws_of(1, label_dropout=0.5)
    dropped = some["y"] == 3
    assert 16 < dropped.sum() < 48
    assert torch.equal(some["y"][~dropped], kept["y"][~dropped])
    assert torch.equal(some["t"], kept["t"])


# --- the held-out loss


def held_out(model: DiT, split: int, **arguments: object) -> diffusion.HeldOut:
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    y = torch.arange(6) % 3
    parts = zip(range(0, 6, split), x.split(split), y.split(split), strict=True)
    terms = [held_out_terms(model, own, classes, first, **arguments) for first, own, classes in parts]
    return diffusion.HeldOut.of(torch.cat(terms, dim=2), int(arguments.get("seed", 0)))


def test_the_held_out_loss_is_a_function_of_model_images_and_seed() -> None:
    model = tiny().double().eval()
    torch.manual_seed(1)
    whole = held_out(model, 6)
    torch.manual_seed(2)
    for split in (1, 4):
        parts = held_out(model, split)
        assert (*parts.mse, *parts.vb) == pytest.approx((*whole.mse, *whole.vb), rel=1e-9)
    assert whole.edges == tuple(range(0, 1001, 100))
    assert whole.samples == 6
    assert whole.loss == pytest.approx(sum(whole.mse + whole.vb) / 10)
    assert held_out(model, 6, seed=1).mse != pytest.approx(whole.mse, rel=1e-3)
    assert held_out(tiny(depth=1).double().eval(), 6).mse != pytest.approx(whole.mse, rel=1e-3)


def test_each_bin_sees_its_steps_and_each_image_its_own_noise() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append((x, t, y))
            return torch.cat([x, x], dim=1)

    held_out_terms(Spy(), torch.zeros(5, 1, 4, 4), torch.arange(5), 0, bins=4)
    for k, (x, t, y) in enumerate(seen):
        assert ((250 * k <= t) & (t < 250 * (k + 1))).all()
        assert torch.equal(y, torch.arange(5))
        assert len({tuple(row.flatten().tolist()) for row in x}) == 5


@pytest.mark.parametrize("bins", [7, 0])
def test_bins_that_do_not_divide_the_steps_are_refused(bins: int) -> None:
    with pytest.raises(InputError, match="do not divide"):
        held_out_terms(tiny(), torch.zeros(6, 1, 4, 4), torch.zeros(6, dtype=torch.long), 0, bins=bins)


# --- sampling


def respaced_step(scheduler: object, i: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, log-variance and predicted x0 of one step of the scheduler, from steps with noise 0 and noise 1 throughout."""
    _, t = golden("dit_diffusion")
    r, index = part(t, "respaced."), int(part(t, "respaced.")["timestep_index"][i])
    found = []
    for value in (0.0, 1.0):
        monkeypatch.setattr(ddpm, "randn_tensor", lambda shape, value=value, **kw: torch.full(shape, value, dtype=kw["dtype"]))
        found.append(scheduler.step(t["model_output"][i : i + 1], int(r["timestep_map"][index]), r["x_t"][i : i + 1]))
    mean = found[0].prev_sample
    return mean, 2 * (found[1].prev_sample - mean).log(), found[0].pred_original_sample


def test_the_250_steps_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    _, t = golden("dit_diffusion")
    r, scheduler = part(t, "respaced."), scheduler_of(Sampler())
    assert torch.equal(scheduler.timesteps.flip(0), r["timestep_map"])
    for i, index in enumerate(r["timestep_index"].tolist()):
        mean, log_variance, x0 = respaced_step(scheduler, i, monkeypatch)
        close(mean, r["mean"][i : i + 1], f"mean of step {index}")
        close(x0, r["pred_xstart"][i : i + 1], f"x0 of step {index}")
        if index:  # the last step adds no noise
            close(log_variance, r["log_variance"][i : i + 1], f"log-variance of step {index}")


@pytest.mark.parametrize(
    "wrong",
    [{"timestep_spacing": "leading"}, {"clip_sample": True}, {"variance_type": "fixed_small"}, {"beta_end": 0.021}],
    ids=str,
)
def test_another_scheduler_is_seen_red(wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def other(sampler: Sampler) -> object:
        options = {"variance_type": "learned_range", "timestep_spacing": "linspace", "clip_sample": False, "beta_end": 0.02}
        made = ddpm.DDPMScheduler(beta_start=1e-4, **(options | wrong))
        made.set_timesteps(sampler.steps)
        return made

    monkeypatch.setitem(globals(), "scheduler_of", other)
    with pytest.raises((AssertionError, RuntimeError)):
        test_the_250_steps_are_those_of_the_reference(monkeypatch)


def respaced_posterior(out: Tensor, x: Tensor, now: int, before: int | None) -> tuple[Tensor, Tensor]:
    """Mean and log-variance by the formulas of `gaussian`, for one step from ``now`` to ``before``; float64."""
    bar = torch.cumprod(1 - betas(), 0)
    a, b = bar[now], bar[before] if before is not None else torch.tensor(1.0).double()
    beta = 1 - a / b
    eps, v = out.double().chunk(2, dim=1)
    x0 = (x.double() - (1 - a).sqrt() * eps) / a.sqrt()
    mean = b.sqrt() * beta / (1 - a) * x0 + (a / b).sqrt() * (1 - b) / (1 - a) * x.double()
    low, high = (beta * (1 - b) / (1 - a)).log(), beta.log()
    return mean, (v + 1) / 2 * high + (1 - (v + 1) / 2) * low


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_whole_trajectory_is_the_chain_of_posteriors_with_each_samples_own_noise(cfg: float) -> None:
    model, labels, steps = tiny().eval(), torch.tensor([0, 2]), 25
    found = sample(model, labels, Sampler(steps=steps, cfg=cfg, cfg_channels=None), seed=5, indices=[7, 3])
    generators = [diffusion.draws.generator_of(5, i) for i in (7, 3)]

    def noise() -> Tensor:
        return torch.cat([torch.randn(1, 1, 4, 4, generator=g) for g in generators])

    x = noise()
    times = torch.linspace(0, 999, steps, dtype=torch.float64).round().long().flip(0).tolist()
    with torch.no_grad():
        for now, before in zip(times, [*times[1:], None], strict=True):
            t = torch.tensor([now, now])
            given, null = model(x, t, labels), model(x, t, torch.tensor([3, 3]))
            out = given.clone()
            out[:, :1] = null[:, :1] + cfg * (given[:, :1] - null[:, :1])
            mean, log_variance = respaced_posterior(out, x, now, before)
            x = (mean + (0.5 * log_variance).exp() * noise() if before is not None else mean).float()
    # 25 float32 calls, whose rounding guidance multiplies by 3 and which differs from processor to processor.
    size = x.abs().max()
    near(found / size, x / size, tolerance=1e-4)


@pytest.mark.parametrize("name", diffusion.SAMPLERS)
def test_samples_follow_from_seed_and_index_however_they_are_split(name: str) -> None:
    model, labels, sampler = tiny().train(), torch.tensor([0, 1, 2, 3]), Sampler(name, steps=10, cfg=2.0)
    told: list[int] = []
    torch.manual_seed(0)
    whole = sample(model, labels, sampler, seed=1, done=told.append)
    torch.manual_seed(1)
    assert torch.equal(sample(model, labels, sampler, seed=1), whole)
    parts = [sample(model, labels[k : k + 2], sampler, seed=1, indices=range(k, k + 2)) for k in (0, 2)]
    near(torch.cat(parts), whole, tolerance=1e-4)
    assert whole.shape == (4, 1, 4, 4)
    assert not torch.allclose(sample(model, labels, sampler, seed=2), whole, atol=0.1)
    assert not torch.allclose(sample(model, labels, replace(sampler, cfg=1.0), seed=1), whole, atol=1e-3)
    assert told == list(range(1, len(told) + 1))
    assert model.training


def test_guidance_on_three_of_four_channels_leaves_the_fourth() -> None:
    model, labels = tiny(in_channels=4), torch.tensor([0, 1])
    three, four = (sample(model, labels, Sampler("ddim", 1, cfg=4.0, cfg_channels=k)) for k in (3, None))
    plain = sample(model, labels, Sampler("ddim", 1))
    near(three[:, 3], plain[:, 3], tolerance=1e-4)  # one step: no channel has fed on another yet
    near(three[:, :3], four[:, :3], tolerance=1e-4)
    assert not torch.allclose(four[:, 3], plain[:, 3], atol=1e-3)


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_each_step_of_ddim_ends_where_the_next_begins(steps: int) -> None:
    times = scheduler_of(Sampler("ddim", steps)).timesteps.tolist()
    assert times == list(range(STEPS - 1, -1, -STEPS // steps))  # diffusers goes from t to t − 1000 / steps
    assert times[-1] - STEPS // steps == -1


@pytest.mark.parametrize("name", ["ddim", "dpm-solver"])
def test_a_preview_of_a_perfect_denoiser_finds_its_image(name: str) -> None:
    image = torch.rand(1, 1, 4, 4) * 2 - 1
    bar = torch.cumprod(1 - betas(), 0)

    class Perfect(DiT):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            a = bar[t].view(-1, 1, 1, 1)
            return torch.cat([(x - a.sqrt() * image) / (1 - a).sqrt(), torch.zeros_like(x)], dim=1)

    found = sample(Perfect(tiny().config), torch.tensor([0, 1]), Sampler(name, steps=20))
    near(found, image.expand(2, -1, -1, -1), tolerance=2e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "ddpmm"}, "unknown sampler"),
        ({"steps": 0}, "steps that ddpm cannot take"),
        ({"name": "ddim", "steps": 30}, "a divisor of 1000"),
        ({"cfg_channels": 0}, "no channel to guide"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Sampler(**arguments)
