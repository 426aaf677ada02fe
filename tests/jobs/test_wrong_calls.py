"""A wrong call ends with one sentence that says what to change, before it has cost anything."""

import os
import shlex

import pyarrow as pa
import pyarrow.parquet
import pytest
from in_process import called

HEADER = "user_id,item_id,rating,timestamp"
ROWS = [f"u{n % 7},i{n % 11},{n % 5 + 1},{1_600_000_000 + n * 1000}" for n in range(60)]
FILES = {
    "log.csv": [HEADER, *ROWS],
    "unrated.csv": [
        ",".join(line.split(",")[:2] + line.split(",")[3:]) for line in (HEADER, *ROWS)
    ],
    "head.csv": [HEADER],
    "nothing.csv": [],
    "twice.csv": ["user_id,item_id,rating,rating", "u1,i1,3,3"],
    "word.csv": [HEADER, *ROWS[:9], "u1,i1,good,1600000000", *ROWS],
    "endless.csv": [HEADER, *ROWS[:9], "u1,i1,inf,1600000000", *ROWS],
    "later.csv": [HEADER, *ROWS[:9], "u1,i1,3,1600000000000", *ROWS],
    "undated.csv": [HEADER, *ROWS[:9], "u1,i1,3,soon", *ROWS],
    "anonymous.csv": [HEADER, *ROWS[:9], ",i1,3,1600000000", *ROWS],
    "broken_id.csv": [HEADER, '"a\nb",i1,3,1600000000', *ROWS],
    "one_user.csv": [HEADER, *(f"u1,{row.partition(',')[2]}" for row in ROWS)],
    "alike.csv": [HEADER, *(",".join([*row.split(",")[:2], "3", "1600000000"]) for row in ROWS)],
    "items.csv": ["item_id,year", *(f"i{n},{1990 + n}" for n in range(11))],
    "few_items.csv": ["item_id,year", *(f"i{n},{1990 + n}" for n in range(9))],
    "double_items.csv": ["item_id,year", *(f"i{n % 11},1990" for n in range(12))],
    "bags.csv": ["item_id,genres", *(f"i{n},a|b" for n in range(11))],
    "spaced.csv": [line.replace(",", " ") for line in (HEADER, *ROWS)],
    "coloned.csv": [line.replace(",", "::") for line in (HEADER, *ROWS)],
    # Whose latest rows are of what their users have.
    "again.csv": [HEADER, *(f"u{n % 6},i{n % 6 * 2 + n // 6 % 2},3,{n * 1000}" for n in range(60))],
    "folder/a.csv": [HEADER, *ROWS[:30]],
    "folder/.ipynb_checkpoints/a-checkpoint.csv": ["what Jupyter leaves"],
    "folder/b.csv": [HEADER, *ROWS[30:], "u1,i1,good,1600000000"],
    "empty/readme": ["no table"],
    "binary.parquet": ["no parquet"],
}

# A command line, and what its sentence says.
KEYS = [
    (
        "launch train.epoch=3",
        "got train.epoch=3. Did you mean train.epochs?",
    ),
    ("launch epochs=3", "epochs is no option; got epochs=3. Did you mean train.epochs?"),
    ("launch trian.epochs=3", "Did you mean train.epochs?"),
    ("launch seeed=3", "Did you mean seed?"),
    ("launch task.weights.click=1", "task.weights.click is no option"),
    ("launch tracking.url=x", "Did you mean tracking.uri?"),
    ("launch data.interaction=x.csv data=table", "Did you mean data.interactions?"),
    ("launch cluster.workers=2", "cluster.workers is no option; "),
    ("launch model.query.dims=8", "Did you mean model.query.dim?"),
    ("launch hydra.rum.dir=x", "hydra.rum.dir is no option"),
    (
        "launch balance=fixed balance.rate=3",
        "balance.rate is no option; got balance.rate=3. --help",
    ),
    ("launch index=exact index.k=3", "index.k is no option; got index.k=3. --help"),
    ("launch index.target=1", "index.target is no option"),
    (
        "launch learning_rate=0.1",
        "Did you mean optimizer.tables.learning_rate or",
    ),
    ("launch global_batch=64", "Did you mean train.global_batch?"),
    ("recommend user=3", "user is no option; got user=3. Did you mean user_id?"),
    ("recommend user_id=3 histroy=[1]", "Did you mean history?"),
    ("compare metric=[a]", "Did you mean metrics?"),
    ("compare tradeoff.z=a", "tradeoff.z is no option"),
    ("doctor disk.warn=3", "Did you mean disk.warn_gib?"),
    ("doctor output=3", "Did you mean outputs?"),
    ("prepare dat.x=3", "is no option"),
    ("recommend zzz=x", "zzz is no option; there are run, user_id"),
    (
        "launch data=table data.interactions=log.csv 'data.item_vectors={cover: [a.npy, b.npy]}'",
        "data.item_vectors.cover must be added with a +",
    ),
]
CHOICES = [
    ("launch data=movielens", "data must be one of movielens_100k, movielens_1m"),
    (
        "launch task=joined",
        "got joined. Did you mean joint?",
    ),
    ("launch balance=gradnrom", "Did you mean gradnorm?"),
    ("launch model=one_tower", "model must be one of two_tower; got one_tower"),
    ("launch model/sharing=mmeo", "model/sharing must be one of mmoe, ple, shared_bottom, stem"),
    ("launch model/pooling=average", "model/pooling must be one of"),
    ("launch optimizer=adam", "optimizer must be one of lazy_adam, rowwise_adagrad; got adam"),
    ("launch index=faiss", "index must be one of exact, scann; got faiss"),
    ("launch cluster=ray_cloud", "cluster must be one of local, ray_address, ray_gpu, ray_local"),
    ("launch experiment=nothing", "experiment must be one of movielens_100k, scarce_ratings"),
    ("launch tracking=wandb", "tracking must be one of mlflow; got wandb"),
    ("launch head@task.heads.click=binary", "Write +head@task.heads.click=binary"),
    ("launch +head@task.heads.click=binry", "got binry. Did you mean binary?"),
    ("launch head@task.heads.retrieval=softmx", "Did you mean softmax?"),
    (
        "launch --config-name nope",
        "--config-name must be one that there is",
    ),
    ("launch --config-dir nowhere", "--config-dir must be a directory; nothing is at"),
    ("launch --config-path nowhere", "--config-path must be a directory of configs; nothing is at"),
    ("launch task=", "task must be one of joint, rating, retrieval; got nothing."),
    ("doctor cluster=ray_loc", "Did you mean ray_local?"),
]
GRAMMAR = [
    ("launch foo", "an override must be key=value, such as train.epochs=5; got foo"),
    ("launch 'train.epochs=[1'", "an override must be key=value"),
    ("launch train.select_by=a=b", "an override must be key=value"),
    ("launch +experiment=smoke +experiment=search", "experiment must be chosen once"),
    ("launch train.epochs=1,2", "several values are for a sweep; got train.epochs=1,2"),
    ("launch +train.epochs=3", "train.epochs is there already"),
    ("launch ~train", "what ~ takes away must be what a job can do without; got ~train. Leave it"),
    ("launch ~task.heads", "what ~ takes away must be what a job can do without; got ~task.heads"),
    ("launch ~seed", "what ~ takes away must be what a job can do without; got ~seed"),
    ("launch ~train.foo", "what ~ takes away must be there, and train.foo is not"),
    ("launch ~index.bar=3", "what ~ takes away must be there, and index.bar is not"),
    ("launch --no-such", "there is no flag: --no-such"),
    ("launch --cfg", "--cfg"),
    ("launch --cfg nothing", "invalid choice: 'nothing'"),
    ("launch --run --multirun", "got both. Leave one out"),
    ("launch --resolve", "--resolve must stand beside --cfg"),
    ("recommend --nothing", "there is no flag: --nothing"),
    ("compare foo", "an override must be key=value"),
]
KINDS = [
    ("launch train.epochs=many", "train.epochs must be a whole number; got many"),
    ("launch train.epochs=1.5", "train.epochs must be a whole number; got 1.5"),
    ("launch train.epochs=", "train.epochs must be a whole number; got nothing"),
    ("launch train.epochs=null", "train.epochs must have a value; got null"),
    ("launch seed=abc", "seed must be a whole number; got abc"),
    ("launch task.weights.rating=high", "task.weights.rating must be a number; got high"),
    ("launch train.chronological=maybe", "train.chronological must be true or false; got maybe"),
    ("launch cluster.use_gpu=perhaps", "cluster.use_gpu must be true or false; got perhaps"),
    ("launch train=3", "train must have keys of its own; got 3"),
    ("launch data=synthetic data.num_users=few", "data.num_users must be"),
    ("launch data.split.seed=x", "data.split.seed must be"),
    ("recommend user_id=3 k=ten", "k must be a whole number; got ten"),
    ("compare tradeoff.seed=x", "tradeoff.seed must be a whole number"),
    ("doctor disk.warn_gib=-1", "disk.warn_gib must be at least 0"),
    ("doctor disk.warn_gib=few", "disk.warn_gib must be a number; got few"),
    ("launch data=table", "data.interactions must be given: pass data.interactions=..."),
    ("launch cluster=ray_address", "cluster.address must be given: pass cluster.address=..."),
    ("recommend", "user_id must be given: pass user_id=..."),
    ("recommend user_id=", "user_id must be an id; got nothing. Write user_id=new"),
    ("recommend user_id=3 k=0", "k must be at least 1; got 0"),
    ("recommend user_id=3 history=50", "history must be a list; got 50. Write history=[50]."),
    (
        "recommend user_id=3 features=F",
        "features must have keys of its own; got F. Write +features",
    ),
    ("recommend user_id=3 run=nowhere", "error: run=nowhere is not a run directory (no "),
    ("prepare data=table", "data.interactions must be given"),
]
VALUES = [
    ("launch train.epochs=0", "train.epochs must be at least 1; got 0"),
    ("launch train.global_batch=0", "train.global_batch must be at least 1"),
    ("launch train.max_steps=0", "train.max_steps must be at least 1, or null"),
    ("launch train.patience=0", "train.patience must be at least 1, or null"),
    ("launch train.patience=2 train.select_by=null", "train.patience must be null with"),
    ("launch train.batch_of=items", "train.batch_of must be"),
    ("launch train.precision=half", "train.precision must be"),
    ("launch train.history_share=1", "train.history_share must be at least 0 and below 1"),
    ("launch train.checkpoint_every=often", "train.checkpoint_every must be steps"),
    ("launch train.resume=nowhere", "train.resume must be auto, never or a run directory"),
    ("launch task.weights.rating=-1", "task.weights.rating must be a finite number"),
    ("launch task.weights={retrieval:0,rating:0}", "task.weights must not all be 0"),
    ("launch +task.weights.clicks=1", "task.weights must name the heads"),
    ("launch model.sharing=mmoe", "Write model/sharing=mmoe"),
    ("launch model.pooling=mean", "Write model/pooling=mean"),
    ("launch model.table_placement=split", "model.table_placement must be"),
    ("launch seed=-1", "seed must be from 0 to"),
    ("launch optimizer.tables.learning_rate=0", "optimizer.tables.learning_rate must be a finite"),
    ("launch optimizer.dense.learning_rate=nan", "optimizer.dense.learning_rate must be a finite"),
    ("compare experiment=", "experiment must be a name; got nothing"),
    ("prepare data.archive=nowhere", "got data.archive=nowhere, where it is not"),
    ("launch data.split.kind=rnadom", "data.split.kind must be one of random, temporal"),
    ("launch data.split.fold=2", "data.split.fold must be left out with data.split.kind=random"),
    ("launch cluster.num_workers=2", "Add cluster=ray_local"),
    ("launch cluster.num_workers=0", "cluster.num_workers must be at least 1"),
    ("launch cluster=ray_local cluster.num_workers=many", "Set cluster.num_workers=2, or [1,4]"),
    ("launch cluster=ray_local cluster.num_workers=[4,1]", "got [4, 1]. Set cluster.num_workers=2"),
    ("launch cluster=ray_local cluster.num_workers=[2]", "one number or the least and the most"),
    ("launch cluster=ray_local cluster.num_workers=[1,2,3]", "got [1, 2, 3]"),
    ("launch cluster=ray_local cluster.num_workers=[1,2.5]", "got [1, 2.5]"),
    ("launch cluster.num_workers=[1,2]", "Add cluster=ray_local"),
    ("launch cluster=ray_local cluster.resize_check_s=0", "cluster.resize_check_s must be above 0"),
    (
        "launch cluster=ray_local cluster.num_workers=[1,4096] train.global_batch=4096",
        "cluster.num_workers must be at most",
    ),
    ("launch cluster.devices_per_worker=0", "cluster.devices_per_worker must be at least 1"),
    (
        "launch cluster.devices_per_worker=3",
        "train.global_batch must divide by the number of",
    ),
    ("launch cluster=ray_local cluster.num_workers=3", "Set train.global_batch=126"),
    (
        "launch cluster=ray_local cluster.num_workers=4096 train.global_batch=4096",
        "cluster.num_workers must be at most",
    ),
    ("launch cluster=ray_address cluster.address=foo", "cluster.address must be host:port of a"),
    (
        "launch cluster.max_failures=2",
        "cluster.max_failures must be left out with",
    ),
    ("launch task=rating index=scann", "index must be left out where no head retrieves"),
    ("launch tracking.uri=folder", "tracking.uri must start with one of sqlite"),
    ("launch tracking.uri=http://", "tracking.uri must start with one of sqlite"),
    ("launch seed=99999999999999999999", "seed must be from 0 to 4294967295"),
    ("launch tracking.experiment=", "tracking.experiment must be a name; got nothing."),
    (
        "launch cluster=ray_local cluster.schedule_timeout_s=-1",
        "cluster.schedule_timeout_s must be at least 0",
    ),
    ("launch cluster=ray_local cluster.max_failures=-1", "cluster.max_failures must be at least 0"),
    ("launch cluster=ray_local cluster.cpus_per_worker=0", "cluster.cpus_per_worker must be above"),
    (
        "launch cluster=ray_local cluster.cpus_per_worker=100000",
        "cluster.cpus_per_worker must be at most the",
    ),
    ("launch data.split.train_share=1.5", "data.split.train_share must lie between 0 and 1"),
    ("launch data.split.validation_share=-1", "data.split.validation_share must lie between"),
    ("launch data.split.rating_share=2", "data.split.rating_share must be above 0 and at most 1"),
    ("launch data.split.kind=fold data.split.fold=9", "data.split.fold must be from 1 to 5; got 9"),
    ("launch data.split.seed=-1", "data.split.seed must be from 0 to"),
    ("launch data=table data.interactions=log.csv data.infer=perhaps", "data.infer must be of the"),
    (
        "launch cluster=ray_address cluster.address=127.0.0.1:1",
        "cluster.address must be that of a running Ray cluster; got 127.0.0.1:1",
    ),
    ("launch hydra.run.dir=/proc/x", "hydra.run.dir must be a directory that can be made"),
    ("launch hydra.run.dir=/dev/null/x", "hydra.run.dir must be a directory that can be made"),
    ("launch hydra.run.dir=empty", "hydra.run.dir must be a job's, or empty"),
    ("compare tradeoff.confidence=2", "tradeoff.confidence must be above 0 and below 1"),
    ("compare tradeoff.x=recall", "tradeoff.x must be test/<head>/<metric>; got recall"),
    ("compare tradeoff.resamples=0", "tradeoff.resamples must be at least 1"),
]
PARTS = [
    ("launch model.query.dim=0", "must be at least 1; got 0"),
    (
        "launch task.heads.retrieval.temperature=0",
        "temperature must be above 0",
    ),
    ("launch task.heads.rating.l2=-1", "task.heads.rating.l2 must be at least 0"),
    ("launch balance=famo balance.rate=-1", "balance.rate must be above 0; got -1"),
    ("launch optimizer.tables.beta_1=2", "optimizer.tables.beta_1 must be at least 0 and below 1"),
    ("launch index.k=0", "index.k must be at least 1; got 0"),
    (
        "launch '+data.features.candidate.shared.x={column: year}'",
        "data.features.candidate.shared.x must name its class",
    ),
    ("launch +task.heads.x.label=rating +task.weights.x=1", "task.heads.x must name its class"),
    ("launch +answer.candidates.x.count=3", "answer.candidates.x must name its class"),
    ("launch answer=diverse answer.arrange.trade_off=2", "answer.arrange.trade_off must be at"),
    (
        "launch answer=fused answer.fuse.weights.rating=much",
        "answer.fuse.weights.rating must be of the type float | None; got 'much'",
    ),
    ("launch data.features.query.rating=null", "Write ~data.features.query.rating"),
    ("launch data._target_=mtrec.load_nothing", "data._target_ must name what returns a Dataset"),
    ("launch index.k=ten", "index.k must be of the type int; got 'ten'"),
    ("launch index._target_=nothing", "a _target_ must be what can be imported"),
    (
        "launch task.heads.retrieval.loss._target_=mtrec.Nummeric",
        "No module named 'mtrec.Nummeric'",
    ),
    ("launch model.query.dim=ten", "model.query.dim must be of the type int; got 'ten'"),
    ("launch model.query.dim=1.5", "model.query.dim must be of the type int; got 1.5"),
    ("launch +model.query.dims=8", "Tower has none. Did you mean model.query.dim?"),
    ("launch task.heads.rating.l2=low", "task.heads.rating.l2 must be of the type float"),
    ("launch task.heads.rating.layers=[a]", "task.heads.rating.layers must be of the type list"),
    ("launch task.heads.retrieval.loss=softmax", "Write task.heads.retrieval.loss._target_="),
    ("launch balance=famo balance.rate=x", "balance.rate must be of the type float"),
    ("launch +optimizer.dense.beta_1=x", "optimizer.dense.beta_1 must be of the type float"),
    (
        "launch data.features.query.shared.history.dropout=x",
        "data.features.query.shared.history.dropout must be of the type float",
    ),
    (
        "launch task=retrieval train.select_by=val/rating/rmse",
        "train.select_by must be val/<head>/<metric> of a head that is trained, retrieval, or null",
    ),
    ("launch cluster.use_gpu=true", "cluster.use_gpu=true needs a GPU"),
    (
        "launch +optimizer.tables.clipnorm=1",
        "optimizer.tables.clipnorm must be an option that its _target_ takes, and LazyAdam has",
    ),
    ("launch +optimizer.dense.momentum=1", "options must be those that their _target_ takes"),
    ("launch index.target_recall=2", "index.target_recall must be above 0 and at most 1; got 2"),
]
DATA = [
    ("data.interactions=nowhere.csv", "nothing is at nowhere.csv"),
    ("data.interactions=empty", "empty holds none"),
    ("data.interactions=null", "data.interactions must be of the type str | list[str]; got None"),
    ("data.interactions=[]", "data.interactions must name a file at least; got none"),
    ("data.interactions=[log.csv,./log.csv]", "data.interactions must name each file once; got"),
    ("data.interactions=log.csv,head.csv", "put a list in brackets"),
    ("'data.interactions=[head.csv,word.csv]'", "got 'good' in row 10 of"),
    ("data.interactions=foo://bar/x.csv", "address that can be reached; foo://bar/x.csv is not"),
    ("data.interactions=nothing.csv", "data.interactions must be a CSV"),
    ("data.interactions=binary.parquet", "data.interactions must be a CSV"),
    ("data.interactions=head.csv", "must have interactions"),
    (
        "data.interactions=log.csv data.labels=[clicks]",
        "the column 'clicks' that data.labels names",
    ),
    ("data.interactions=log.csv data.negative=shown", "data.negative=null to do without"),
    ("data.interactions=log.csv data.users=items.csv", "'user_id' that data.user_key names"),
    ("data.interactions=unrated.csv", "data.rating=null to do without"),
    ("data.interactions=spaced.csv", "those of spaced.csv seem to be split by spaces"),
    ("data.interactions=coloned.csv", "those of coloned.csv seem to be split by ::"),
    ("data.interactions=log.csv data.user_columns=[rating]", "got 'rating' in both"),
    ("data.interactions=log.csv data.labels=[x] data.item_columns=[x]", "must not name what"),
    ("data.interactions=log.csv data.items=structs.parquet", "'size' of data.items must hold text"),
    ("data.interactions=twice.csv", "two of its columns have one name, 'rating'"),
    (
        "data.interactions=log.csv data.items=bags.csv data.bag_columns=[genres] "
        "data.bag_separator=",
        "data.bag_separator must be what stands between two labels; got nothing.",
    ),
    ("data.interactions=word.csv", "got 'good' in row 10 of word.csv"),
    ("data.interactions=wide_letters.csv", "data.interactions must be a CSV file in UTF-8"),
    ("data.interactions=folder", "got 'good' in row 31 of"),
    (
        "data.interactions=log.csv data.infer=true data.rating=stars",
        "data.rating must name a column",
    ),
    ("data.interactions=endless.csv", "must be a finite number or empty in every row"),
    ("data.interactions=later.csv", "seconds since 1970"),
    ("data.interactions=undated.csv", "got 'soon' in row 10"),
    ("data.interactions=anonymous.csv", "must be an id in every row; got an empty cell in row 10"),
    ("data.interactions=broken_id.csv", "without a line break"),
    ("data.interactions=one_user.csv", "must be of two users at least"),
    ("data.interactions=alike.csv", "data.rating_scale must be given where all ratings are alike"),
    ("data.interactions=log.csv data.user_key=user", "the column 'user' that data.user_key names"),
    ("data.interactions=log.csv data.timestamp=when", "data.timestamp=null to do without"),
    ("data.interactions=log.csv data.items=few_items.csv", "must hold ids that data.items has"),
    ("data.interactions=log.csv data.items=double_items.csv", "must hold each id once"),
    ("data.interactions=log.csv data.items=items.csv data.title=name", "data.title must name"),
    ("data.interactions=log.csv data.bag_columns=[genres]", "data.bag_columns must name columns"),
    ("data.interactions=log.csv data.rating_scale=[5,1]", "data.rating_scale must be the lowest"),
    ("data.interactions=log.csv data.rating_scale=[1,3]", "from 1 to 3, or empty"),
]
JOBS = [
    (
        "data.interactions=log.csv data.rating_scale=[1,5] train.global_batch=1000000000000",
        "a job must fit the memory of its device; got: Unable to allocate",
    ),
    (
        "data.interactions=log.csv data.rating_scale=[1,5] data.items=bags.csv "
        "data.bag_columns=[genres] \"answer.filter.where='genres > 3'\"",
        "answer.filter.where must compare what can be compared; got 'genres > 3', where",
    ),
    (
        "data.interactions=log.csv data.rating_scale=[1,5] answer.filter.allow=i1",
        "answer.filter.allow must be a list of ids; got i1. Write [i1].",
    ),
    (
        "data.interactions=again.csv data.rating_scale=[1,5] data.split.kind=temporal",
        "or data.repeats=true where users take items again",
    ),
    (
        "data.interactions=log.csv optimizer.tables.learning_rate=1e30 train.max_steps=8",
        "lower optimizer.tables.learning_rate or optimizer.dense.learning_rate",
    ),
]
CALLS = [*KEYS, *CHOICES, *GRAMMAR, *KINDS, *VALUES]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the files."""
    folder = tmp_path_factory.mktemp("calls")
    for name, lines in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    structs = {"item_id": ["i1"], "size": [{"width": 1, "height": 2}]}
    pyarrow.parquet.write_table(pa.table(structs), folder / "structs.parquet")
    (folder / "wide_letters.csv").write_text(f"{HEADER}\n", encoding="utf-16")
    return folder


@pytest.fixture
def call(place):
    """Calls a command in this process."""
    return lambda words: called(*shlex.split(words), cwd=place)


def assert_refused(done, sentence):
    said = done.stderr
    assert done.returncode == 1, said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    assert sentence in said


@pytest.mark.parametrize(("words", "sentence"), CALLS, ids=[words for words, _ in CALLS])
def test_a_wrong_call_is_refused_in_a_sentence(call, words, sentence):
    assert_refused(call(words), sentence)


@pytest.mark.parametrize(("words", "sentence"), PARTS, ids=[words for words, _ in PARTS])
def test_a_part_that_cannot_be_made_is_refused_before_data_is_read(call, words, sentence):
    # There is no such file, and nobody says so.
    assert_refused(call(f"{words} data=table data.interactions=nowhere.csv"), sentence)


@pytest.mark.parametrize("cluster", ["ray_local", "ray_address cluster.address=127.0.0.1:1"])
def test_on_ray_too_parts_are_made_before_data_is_read(call, cluster):
    words = f"launch cluster={cluster} data=table data.interactions=nowhere.csv model.query.dim=0"
    # Where no cluster answers, that is found first.
    assert_refused(call(words), "model.query.dim must be" if cluster == "ray_local" else "running")


def test_on_ray_a_label_that_is_not_there_is_missed_before_workers_start(call, monkeypatch):
    monkeypatch.setattr("mtrec.jobs.main_job.train", None)
    words = "launch cluster=ray_local data=synthetic task.heads.rating.label=clicked"
    assert_refused(call(words), "task.heads.rating.label must be a label of the interactions (ra")


@pytest.mark.parametrize(("words", "sentence"), JOBS, ids=[words for words, _ in JOBS])
def test_what_no_part_shows_before_data_is_read_ends_a_job_in_a_sentence(
    call, place, tmp_path, words, sentence
):
    kept = f"data.cache_dir={place}/cache hydra.run.dir={tmp_path} tracking.uri=sqlite:///x.db"
    assert_refused(call(f"launch data=table {kept} {words}"), sentence)


@pytest.mark.parametrize(("words", "sentence"), DATA, ids=[words for words, _ in DATA])
def test_data_that_cannot_be_used_is_refused_in_a_sentence(call, place, words, sentence):
    cache = f"data.cache_dir={place}/cache"
    assert_refused(call(f"prepare data=table {cache} {words}"), sentence)


def test_the_table_has_as_many_calls_as_it_promises():
    assert len(CALLS) + len(PARTS) + len(DATA) >= 120


def test_no_wrong_call_leaves_a_job_behind(place):
    assert not list(place.rglob("config.yaml"))
    assert not os.path.exists(place / "mlflow.db")


def test_an_extra_that_is_not_installed_is_named():
    from hydra.errors import MissingConfigException

    from mtrec.jobs.mistakes import mistake_in

    error = MissingConfigException("Could not find it", "hydra/sweeper/optuna", options=["basic"])
    assert "pip install 'mtrec[search]'" in str(mistake_in(error, ["experiment=search"]))


def test_a_search_of_no_trial_is_refused():
    from mtrec.jobs.mistakes import mistake_in

    error = ValueError("No trials are completed yet.")  # Optuna's own
    assert "hydra.sweeper.n_trials must be at least 1" in str(mistake_in(error, []))
