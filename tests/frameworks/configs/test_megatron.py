from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.frameworks.configs.megatron import (
    layout_stages,
    megatron_precision,
    model_chunks,
    parallel_degrees,
    read_megatron,
    substituted,
    training_values,
)
from pytest_nemoperf.frameworks.configs.megatron_arguments import MegatronArguments
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from tests.frameworks.megatron_files import SCRIPT, YAML, write_text


def read(path: Path, *, options: dict[str, Any] | None = None, env: dict[str, str] | None = None) -> ConfigValues:
    return read_megatron(path, options=options or {}, env=env or {})


def parsed(text: str) -> MegatronArguments:
    return MegatronArguments.parsed(text.split(), subject="x.sh")


def test_a_yaml_file_is_read_whole(tmp_path: Path) -> None:
    values = read(write_text(tmp_path / "x.yaml", YAML))

    assert values.unread == {}
    assert isinstance(values.model, ModelConfig)
    assert values.model.vocab_size == 50_257
    assert values.gpus is None
    assert values.values == {
        "seq_len": 1024,
        "global_batch_size": 32,
        "micro_batch_size": 2,
        "precision": Precision.BF16,
        "seed": 1234,
    }
    assert values.degrees == {
        "tp": 2,
        "pp": 2,
        "vp": 1,
        "cp": 1,
        "ep": 1,
        "etp": 1,
        "dp_replicate": 0,
        "dp_shard": 1,
        "shard_optimizer": True,
        "sequence_parallel": True,
    }


def test_a_yaml_file_may_hold_the_arguments_at_its_top(tmp_path: Path) -> None:
    text = YAML.partition("MODEL_ARGS:\n")[2].replace("  --", "--")

    assert read(write_text(tmp_path / "x.yaml", text)).values["seq_len"] == 1024


def test_a_text_file_is_a_command_line(tmp_path: Path) -> None:
    text = "# ours\n--num-layers 12 --hidden-size 768 --num-attention-heads 12\n--max-position-embeddings 1024 --fp16\n"
    text += "--micro-batch-size 1 --global-batch-size 8 --seq-length 512 --vocab-size 1000 --data-path 'a b'\n"

    values = read(write_text(tmp_path / "args.txt", text))

    assert values.values["global_batch_size"] == 8
    assert values.unread == {"precision": "--fp16 has no word here"}


def test_a_script_is_read_with_its_arguments_and_variables(tmp_path: Path) -> None:
    path = write_text(tmp_path / "train.sh", SCRIPT)

    plain = read(path, options={"script_may_run": True})
    other = read(
        path, options={"script_may_run": True, "script_args": ["2"]}, env={"FORMAT": "fp8", "GPUS_PER_NODE": "4"}
    )

    assert (plain.gpus, plain.degrees["tp"], plain.degrees["sequence_parallel"]) == (8, 1, False)
    assert plain.values["precision"] is Precision.BF16
    assert (other.gpus, other.degrees["tp"], other.degrees["sequence_parallel"]) == (4, 2, True)
    assert other.values["precision"] is Precision.FP8_CS
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train.sh"]


def test_options_count_like_arguments(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x.yaml", YAML)

    values = read(path, options={"micro-batch-size": 4, "sequence-parallel": None, "script": "pretrain_gpt.py"})

    assert values.values["micro_batch_size"] == 4
    assert values.degrees["sequence_parallel"] is False
    assert values.digest == read(path).digest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(
            {"micro-batch-sise": 1}, "'micro-batch-sise' .* is not known; did you mean micro-batch", id="typo"
        ),
        pytest.param(
            {"--overlap_grad_reduse": True}, "'overlap-grad-reduse' .*mean overlap-grad-reduce", id="the file's"
        ),
        pytest.param({"sequence-paralel": None}, "'sequence-paralel' .*mean sequence-parallel", id="left out"),
        pytest.param(
            {"script_arg": ["2"]}, "'script_arg' .* is not known; did you mean script_args", id="a key of ours"
        ),
        pytest.param({"train_iters": 5}, "each run sets train-iters itself; use steps= of the recipe", id="steps"),
        pytest.param({"--save": "x"}, "each run sets save itself; leave it out of framework_options", id="checkpoints"),
        pytest.param({"log-interval": 10}, "each run sets log-interval itself", id="logging"),
    ],
)
def test_options_are_arguments_and_not_those_of_the_run(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    path = write_text(tmp_path / "x.yaml", YAML + "  --overlap-grad-reduce: true\n")

    with pytest.raises(RecipeError, match=rf"x\.yaml: {told}"):
        read(path, options=options)


def test_an_argument_that_only_the_program_knows_is_passed_on(tmp_path: Path) -> None:
    assert read(write_text(tmp_path / "x.yaml", YAML), options={"overlap-param-gather": True}).unread == {}


def test_the_digest_is_that_of_what_is_trained(tmp_path: Path) -> None:
    digest = read(write_text(tmp_path / "x.yaml", YAML)).digest

    own = YAML.replace("--train-iters: 100", "--train-iters: 5").replace("/tokens", "/others")
    assert read(write_text(tmp_path / "own.yaml", own)).digest == digest
    other = YAML.replace("--seed: 1234", "--seed: 1")
    assert read(write_text(tmp_path / "other.yaml", other)).digest != digest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("MODE: inference\n" + YAML, "is of MODE inference, and pretraining is read", id="inference"),
        pytest.param("a: 1\n", "holds no arguments of Megatron-LM: neither MODEL_ARGS nor the file itself", id="none"),
        pytest.param(
            YAML + "  --encoder-num-layers: 2\n", "trains an encoder \\(--encoder-num-layers\\)", id="encoder"
        ),
        pytest.param(YAML + "  --img-h: 224\n", "trains a multimodal model \\(--img-h\\)", id="pictures"),
        pytest.param(
            YAML.replace("GPT2BPETokenizer", "BertWordPieceLowerCase"), "trains BERT \\(--tokenizer-type", id="bert"
        ),
        pytest.param(
            YAML.replace("--seq-length: 1024", "--seq-length: x"), "--seq-length x must be a whole", id="text"
        ),
        pytest.param(
            YAML + "  --rampup-batch-size: '[8 8 100]'\n",
            "--rampup-batch-size 8 8 100 gives each step another batch, .*\\{'rampup-batch-size': None\\}",
            id="a batch that grows",
        ),
        pytest.param(
            YAML + "  --use-checkpoint-args: true\n",
            "--use-checkpoint-args takes its values from the checkpoint .*\\{'use-checkpoint-args': None\\}",
            id="arguments of a checkpoint",
        ),
        pytest.param(
            YAML.replace("\n  CUDA_DEVICE_MAX_CONNECTIONS: 1", " [A=1]"),
            r"ENV_VARS=\['A=1'\] must be a section of variables",
            id="a list of variables",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml:? {told}"):
        read(write_text(tmp_path / "x.yaml", text))


@pytest.mark.parametrize(
    "script",
    [
        *("pretrain_t5.py", "pretrain_bert.py", "tools/run_text_generation_server.py", "x/generate_samples_gpt.py"),
        *("tasks/eval_harness.py", "examples/mimo/train.py", "gpt_static_inference.py"),
    ],
)
def test_a_script_that_trains_something_else_is_refused(tmp_path: Path, script: str) -> None:
    text = SCRIPT.replace("pretrain_gpt.py", script)
    told = rf"train\.sh starts {script.rpartition('/')[2]}, and the training of decoders of text is read; measure it"

    with pytest.raises(RecipeError, match=told):
        read(write_text(tmp_path / "train.sh", text), options={"script_may_run": True})


def test_a_decoder_is_trained_from_a_folder_of_any_name(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x.yaml", YAML)

    assert read(path, options={"script": "/data/multimodal/pretrain_gpt.py"}).unread == {}


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("bert-load", "BERT"),
        ("mask-prob", "BERT or T5"),
        ("vocab-extra-ids", "an encoder"),
        ("decoder-num-layers", "an encoder"),
        ("num-tokens-to-generate", "nothing and generates"),
    ],
)
def test_arguments_of_another_model_are_refused(tmp_path: Path, argument: str, kind: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml trains {kind} \(--{argument}\), and decoders of text are read"):
        read(write_text(tmp_path / "x.yaml", f"{YAML}  --{argument}: 1\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "# Ours\nIt isn't a recipe\n", "is no list of arguments .*: no closing quotation; name", id="quote"
        ),
        pytest.param("Words of a page\n", "holds no arguments of Megatron-LM such as --num-layers 12", id="words"),
        pytest.param("", "holds no arguments of Megatron-LM such as --num-layers 12", id="empty"),
    ],
)
def test_a_text_that_is_no_command_line_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=rf"README\.md {told}"):
        read(write_text(tmp_path / "README.md", text))


@pytest.mark.parametrize("line", ["/opt/bin/torchrun", "exec /opt/bin/torchrun", '"$PWD/../torchrun"'])
def test_a_launcher_that_is_called_by_a_path_is_refused(tmp_path: Path, line: str) -> None:
    path = write_text(tmp_path / "train.sh", f"{line} pretrain_gpt.py --num-layers 1\n")

    with pytest.raises(RecipeError, match=r"starts its training by the path /.*/torchrun, where no arguments can be"):
        read(path, options={"script_may_run": True})


@pytest.mark.parametrize("options", [{}, {"script_may_run": False}], ids=["nothing said", "no"])
def test_a_script_runs_only_where_the_recipe_allows_it(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_text(tmp_path / "train.sh", f"{{ echo ran; }} > ran\n{SCRIPT}")

    with pytest.raises(RecipeError) as caught:
        read(path, options=options)

    assert str(caught.value) == (
        f"framework_config={path} is a shell script, which is read by letting bash run it up to its launch line, "
        "launchers replaced: whatever else it does really happens, also for a plan or a dry run; allow that by "
        "framework_options={'script_may_run': True}, or name a YAML or text file of arguments, which needs none"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.sh"]


def test_a_permission_is_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="framework_options script_may_run='yes' must be True or False"):
        read(write_text(tmp_path / "train.sh", SCRIPT), options={"script_may_run": "yes"})


def test_a_training_in_a_quoted_command_is_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "train.sh", "srun -N 2 bash -c 'torchrun pretrain_gpt.py --num-layers 1'\n")

    with pytest.raises(RecipeError, match=r"the training is inside a quoted command of srun \(torchrun pretrain_gpt"):
        read(path, options={"script_may_run": True})


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        pytest.param("--bf16", Precision.BF16, id="bf16"),
        pytest.param("", Precision.FP32, id="fp32"),
        pytest.param("--bf16 --fp8-format e4m3", Precision.FP8_DS, id="fp8"),
        pytest.param("--bf16 --fp8-format e4m3 --fp8-recipe blockwise", Precision.FP8_SC, id="blockwise"),
        pytest.param("--bf16 --fp8-format e4m3 --fp8-recipe mxfp8", Precision.MXFP8, id="mxfp8"),
        pytest.param("--bf16 --fp4-format e2m1", Precision.NVFP4, id="nvfp4"),
        pytest.param("--fp16", "--fp16 has no word here", id="fp16"),
        pytest.param("--fp8-format e4m3 --fp8-recipe own", "--fp8-recipe own has no word here", id="own"),
    ],
)
def test_the_number_format_is_that_of_the_products(text: str, precision: Precision | str) -> None:
    assert megatron_precision(parsed(text)) == precision


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param("--recompute-granularity full", {"recompute": Recompute.FULL}, id="full"),
        pytest.param("--recompute-granularity selective", {"recompute": Recompute.SELECTIVE}, id="selective"),
        pytest.param("--recompute-activations", {"recompute": Recompute.SELECTIVE}, id="the short form"),
        pytest.param("--moe-router-force-load-balancing", {"is_router_balanced": True}, id="a balanced router"),
        pytest.param("--sft", {"has_varying_lengths": True}, id="fine-tuning"),
    ],
)
def test_switches_are_read(text: str, values: dict[str, Any]) -> None:
    read, unread = training_values(parsed(f"--seq-length 8 --global-batch-size 4 --bf16 {text}"))

    assert unread == {}
    assert {name: read[name] for name in values} == values


def test_batch_and_length_that_are_not_set_have_their_reason() -> None:
    _, unread = training_values(parsed("--bf16"))

    assert unread == {"seq_len": "--seq-length is not set", "global_batch_size": "--global-batch-size is not set"}


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        pytest.param("--num-experts 8 --tensor-model-parallel-size 2", {"etp": 2}, id="experts as the rest"),
        pytest.param(
            "--num-experts 8 --tensor-model-parallel-size 2 --expert-tensor-parallel-size 1", {"etp": 1}, id="experts"
        ),
        pytest.param("--context-parallel-size 2 --cp-comm-type a2a", {"cp": 2, "cp_comm": "a2a"}, id="context"),
        pytest.param("--use-torch-fsdp2", {"dp_replicate": 1, "dp_shard": 0, "shard_optimizer": False}, id="fsdp2"),
        pytest.param("--use-distributed-optimizer", {"shard_optimizer": True, "dp_replicate": 0}, id="shared states"),
        pytest.param("--optimizer dist_muon", {"shard_optimizer": True}, id="shared states of Muon"),
        pytest.param("--optimizer adam", {"shard_optimizer": False}, id="whole states"),
        pytest.param(
            "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params "
            "--num-distributed-optimizer-instances 2",
            {"dp_replicate": 2, "dp_shard": 0, "shard_optimizer": False},
            id="megatron fsdp",
        ),
        pytest.param(
            "--use-megatron-fsdp --data-parallel-sharding-strategy optim",
            {"dp_replicate": 0, "dp_shard": 1, "shard_optimizer": True},
            id="zero 1",
        ),
        pytest.param("--use-megatron-fsdp --use-distributed-optimizer", {"shard_optimizer": False}, id="no_shard"),
    ],
)
def test_degrees_are_read(text: str, degrees: dict[str, Any]) -> None:
    found = parallel_degrees(parsed(text))

    assert {name: found.get(name) for name in degrees} == degrees


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        pytest.param("--num-layers 16", 1, id="none"),
        pytest.param("--num-layers 16 --num-layers-per-virtual-pipeline-stage 2", 4, id="by layers"),
        pytest.param(
            "--num-layers 14 --num-layers-per-virtual-pipeline-stage 2 --account-for-embedding-in-pipeline-split "
            "--account-for-loss-in-pipeline-split",
            4,
            id="with the ends",
        ),
        pytest.param("--num-virtual-stages-per-pipeline-rank 3", 3, id="said"),
        pytest.param("--pipeline-model-parallel-layout Et|(tt|)*2tL", 2, id="a layout"),
        pytest.param("--hybrid-layer-pattern M|M|M|M", 2, id="a hybrid"),
    ],
)
def test_chunks_of_a_pipeline_of_two_are_read(text: str, chunks: int) -> None:
    assert model_chunks(parsed(text), pp=2, model=NamedModel()) == chunks
    assert model_chunks(parsed(text), pp=1, model=NamedModel()) == 1


def test_chunks_of_an_unknown_model_can_not_be_told() -> None:
    reason = model_chunks(parsed("--num-layers-per-virtual-pipeline-stage 2"), pp=2, model=NamedModel())

    assert "makes chunks of the model, whose --num-layers is not set" in str(reason)


def test_a_layout_is_counted() -> None:
    assert layout_stages("Et|t|mL") == 3
    assert layout_stages("'Et*3|(tt|)*29,m|L'") == 32


@pytest.mark.parametrize("text", ["(tt|)*999999999", "(t|)*" + "9" * 5000, "((((t|)*999)*999)*999)*999"])
def test_a_pipeline_layout_longer_than_models_are_deep_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"the pipeline layout \(.* has more than 10,000 letters written out"):
        layout_stages(text)
    assert layout_stages("E|((t|)*2m|)*3L") == 11


def test_variables_in_words_are_replaced() -> None:
    words, missing = substituted(["${A}/x", "$B", "plain", "${C}"], env={"A": "/a", "B": "b"})

    assert words == ["/a/x", "b", "plain", "${C}"]
    assert missing == {"C"}
