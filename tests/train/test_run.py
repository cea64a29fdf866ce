"""What a run writes and reads: logs, samples, weights to begin with, averages."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from s2s.audio.io import read_audio
from s2s.codec.base import CodecSpec
from s2s.codec.spectral import SpectralCodec
from s2s.data.shards import shard_files
from s2s.data.written import WRITTEN
from s2s.train.checkpoints import load_codec, load_duplex, part_of, read_checkpoint
from s2s.train.config import CallbacksConfig
from s2s.train.run import build_duplex, find_resume, run_training, start_from
from s2s.train.samples import DuplexSamples
from tests.tiny import tiny_codec_config
from tests.train.toy import codec_run, duplex_run, train_to_end


def test_samples_logs_and_speed_of_a_duplex_run(toy: Path, tmp_path: Path) -> None:
    more = [
        "callbacks.sample_every=2",
        "optim.total_steps=2",
        "logger.tensorboard=true",
        "trainer.precision=bf16-mixed",
    ]
    run_training(duplex_run(toy, tmp_path, *more))
    wav, rate = read_audio(tmp_path / "samples" / "step-00000002-0.wav")
    assert wav.shape == (2, 24000) and rate == 24000
    assert wav[0].any() and wav[1].any()
    assert any((tmp_path / "tensorboard").glob("events*"))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {"loss", "user_text", "agent_text", "agent_first", "agent_rest", "grad_norm"}
    assert {f"train/{name}" for name in names} <= rows[-1].keys()
    assert float(rows[-1]["speed/audio_s_per_s"]) > 0
    assert 0 < float(rows[-1]["speed/mfu"]) < 1
    assert 0 <= float(rows[-1]["speed/data_wait"]) < 1


def test_the_voice_stage_begins_with_the_general_codec_and_keeps_its_tokens(toy: Path, tmp_path: Path) -> None:
    general = run_training(codec_run(toy, tmp_path / "general", "optim.total_steps=2", "callbacks.sample_every=2"))
    assert (tmp_path / "general" / "samples" / "step-00000002-0.wav").exists()
    voice = ["optim.stage=voice", f"init_from={general}", "optim.total_steps=2"]
    special = run_training(codec_run(toy, tmp_path / "voice", *voice))
    assert general and special
    before, after = load_codec(general).state_dict(), load_codec(special).state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"}


def test_a_checkpoint_holds_the_average_as_its_weights(toy: Path, tmp_path: Path) -> None:
    content = train_to_end(codec_run(toy, tmp_path, "optim.total_steps=3", "callbacks.ema_decay=0.5"))
    averaged, current = (part_of(content[name], "codec.decoder.") for name in ("state_dict", "current_model_state"))
    assert any(not torch.equal(value, current[name]) for name, value in averaged.items())
    loaded = load_codec(tmp_path / "checkpoints" / "step-00000003.ckpt").decoder.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in averaged.items())


def test_what_cannot_be_used_is_said(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt: not a checkpoint"):
        find_resume(str(tmp_path / "text.ckpt"), tmp_path)
    with pytest.raises(ValueError, match=r"missing\.ckpt: not a checkpoint"):
        read_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(ValueError, match="nothing matches"):
        codec_run(toy, tmp_path, "data.files=[nowhere/*.parquet]").found_data()
    with pytest.raises(ValueError, match="code_width is 16"):
        run_training(duplex_run(toy, tmp_path, "model.code_width=16"))
    with pytest.raises(ValueError, match="torchrun"):
        run_training(duplex_run(toy, tmp_path, "trainer.processes=2"))


def test_calls_without_sound_need_a_model_that_reads(toy: Path, tmp_path: Path) -> None:
    shard = shard_files(duplex_run(toy, tmp_path).data.shards)[0]
    table = pq.read_table(shard)
    about = json.loads(table.schema.metadata[b"s2s"])
    about["info"]["recipe"]["source"] = WRITTEN
    (tmp_path / "written").mkdir()
    written = tmp_path / "written" / "shard-00000.parquet"
    pq.write_table(table.replace_schema_metadata({"s2s": json.dumps(about)}), written)
    (written.parent / "tokenizer.json").write_bytes((shard.parent / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match=r"shard-00000\.parquet holds calls without sound.*model\.wording_layer"):
        build_duplex(duplex_run(toy, tmp_path, f"data.shards=[{written.parent}]"))
    assert build_duplex(duplex_run(toy, tmp_path, f"data.shards=[{written.parent}]", "model.wording_layer=2"))


def test_samples_are_made_of_callers_who_are_heard(toy: Path, tmp_path: Path) -> None:
    data, module, *_ = build_duplex(duplex_run(toy, tmp_path))
    data.prepare_data()
    batch, user = next(iter(data.train_dataloader())), module.model.layout.stream("user")
    spec = CodecSpec(24000, 960, user.num_rows, user.vocab_size)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(val_dataloader=list), global_step=1)
    codec, config = SpectralCodec(tiny_codec_config(spec)), CallbacksConfig(num_samples=2, sample_s=0.4)

    def callers() -> torch.Tensor:
        caller, agent, _ = DuplexSamples(tmp_path, config, codec).sample(trainer, module, batch)
        assert len(caller) == len(agent)
        return caller

    both = callers()
    assert len(both) == 2
    batch["user"][0] = spec.codebook_size
    assert torch.equal(callers()[:1], both[1:])
    batch["user"][:] = spec.codebook_size
    assert len(callers()) == 0


def test_a_run_of_other_sizes_is_not_continued(toy: Path, tmp_path: Path) -> None:
    run_training(duplex_run(toy, tmp_path, "optim.total_steps=1"))
    with pytest.raises(ValueError, match=r"another model \(depth\): use another folder"):
        run_training(duplex_run(toy, tmp_path, "model.depth.hidden=64"))


def test_weights_of_other_sizes_are_refused(toy: Path, tmp_path: Path) -> None:
    from s2s.train.codec import CodecModule

    path = run_training(codec_run(toy, tmp_path, "optim.total_steps=1"))
    other = CodecModule(codec_run(toy, tmp_path, "codec.hop_width=24").train_config())
    with pytest.raises(ValueError, match="does not fit the configured sizes"):
        start_from(other, str(path))


@pytest.mark.parametrize(
    ("other", "anew"), [("codec.synthesis_window=1920", {"head"}), ("codec.synthesis_hop=240", {"up"})]
)
def test_a_codec_with_another_decoder_keeps_what_fits(toy: Path, tmp_path: Path, other: str, anew: set[str]) -> None:
    from s2s.train.codec import CodecModule

    path = run_training(codec_run(toy, tmp_path, "optim.total_steps=1"))
    torch.manual_seed(3)
    module = CodecModule(codec_run(toy, tmp_path, other).train_config())
    own = {name: value.clone() for name, value in module.codec.state_dict().items()}
    start_from(module, str(path))
    saved = read_checkpoint(path)["state_dict"]
    for name, value in module.codec.state_dict().items():
        part, _, rest = name.partition(".")
        begins = part == "decoder" and rest.split(".")[0] in anew
        assert torch.equal(value, own[name] if begins else saved[f"codec.{name}"]), name


def test_a_deeper_model_begins_as_the_one_it_comes_from(toy: Path, tmp_path: Path) -> None:
    path = run_training(duplex_run(toy, tmp_path, "optim.total_steps=1"))
    before = load_duplex(str(path))
    layers = before.config.backbone.num_layers
    run = duplex_run(toy, tmp_path / "deeper", f"model.backbone.num_layers={layers + 1}")
    module = build_duplex(run)[1]
    start_from(module, str(path))
    deeper = module.model.eval()
    grid = torch.randint(10, (2, deeper.layout.num_rows, 7))
    assert len(deeper.backbone.layers) == layers + 1
    torch.testing.assert_close(deeper(grid), before(grid), rtol=0, atol=1e-5)
    adds = deeper.backbone.layers[layers].mlp
    assert adds.gate_up.weight.any() and not adds.down.weight.any(), "it can learn to add something"


def test_a_head_that_looks_ahead_begins_as_that_of_the_text(toy: Path, tmp_path: Path) -> None:
    path = run_training(duplex_run(toy, tmp_path, "optim.total_steps=1", "model.ahead=false"))
    module = build_duplex(duplex_run(toy, tmp_path / "more", "model.ahead=true"))[1]
    start_from(module, str(path))
    assert module.model.ahead is not None
    assert torch.equal(module.model.ahead.weight, load_duplex(str(path)).text_heads["agent_text"].weight)


def test_an_inner_layer_that_is_new_is_legible_to_the_head_that_was_there(toy: Path, tmp_path: Path) -> None:
    path = run_training(duplex_run(toy, tmp_path, "optim.total_steps=1"))
    module = build_duplex(duplex_run(toy, tmp_path / "more", "model.wording_layer=2"))[1]
    start_from(module, str(path))
    head, wording = module.model.text_heads["user_text"], module.model.wording
    assert torch.equal(head.weight, load_duplex(str(path)).text_heads["user_text"].weight)
    alike = torch.cosine_similarity(wording.back.weight.T, head.weight)
    pad = module.model.layout.stream("user_text").pad_id
    torch.testing.assert_close(alike[:pad], torch.ones(pad))
