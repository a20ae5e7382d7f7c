"""Score many users on a cluster: write what `python lfg.py score` writes, with many processes.

    python docs/cluster.py dask --model ml-1m.npz --ratings new.csv --out top.csv
    python docs/cluster.py spark --model ml-1m.npz --ratings new.csv --out top.csv

These use all cores of this machine. For a cluster, give Dask --scheduler tcp://HOST:8786, and start
Spark with spark-submit --master spark://HOST:7077 docs/cluster.py spark. docs/serving.md says what
to install.
"""

import os
import shutil
import sys
import warnings
from glob import glob
from importlib import import_module
from pathlib import Path

for variable, value in [("OPENBLAS_NUM_THREADS", "1"), ("PYSPARK_PYTHON", sys.executable),
                        ("DASK_LOGGING__DISTRIBUTED", "critical")]:
    os.environ.setdefault(variable, value)                 # workers on this machine have them, too
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data import RATED, DataError, output_path, write_whole                         # noqa: E402
from serve import Parser, Recommender, integer, run_command, score_users            # noqa: E402

MODULES = [str(ROOT / f"{name}.py") for name in ("data", "lfg", "nn", "serve", "settings", "svd")]
PACKAGES = {"dask": "dask[dataframe,distributed]", "spark": "pyspark[sql]"}


def answer(ratings, model, n):
    """What a worker does: the rows of score_users for all ratings of some users."""
    return score_users(ratings.set_axis([f"user {user}" for user in ratings["user"]]), model, n)


def with_dask(options, model):
    """The rows for all users, by the workers of a scheduler, or by one for each core here."""
    import dask.dataframe as dd
    from distributed import Client

    ratings = rated(dd.read_csv(options.ratings, dtype=str, keep_default_na=False), options)
    local = {} if options.scheduler else {"threads_per_worker": 1}
    with Client(options.scheduler, **local) as client:
        for path in MODULES:
            client.upload_file(path, load=False)
        client.run(import_module, "dask.dataframe")        # fails if two threads import it at once
        sent = client.scatter(model, broadcast=True)
        parts = ratings.shuffle("user", npartitions=4 * sum(client.nthreads().values()))
        columns = {"user": str, "item": str, "rating": float, "score": float}
        return parts.map_partitions(answer, sent, options.n, meta=columns).compute()


def with_spark(options, model):
    """The rows for all users, by the workers of spark-submit's master, or by all cores here."""
    from pyspark.sql import SparkSession, functions

    if not (shutil.which("java") or "JAVA_HOME" in os.environ):
        raise DataError("Java is missing; install Java 17 or newer")
    warnings.simplefilter("ignore")                        # Spark's: pandas 3 is new to it
    one_thread = "spark.executorEnv.OPENBLAS_NUM_THREADS"
    spark = SparkSession.builder.config(one_thread, "1").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")                  # run reports a mistake, in one line
    for path in MODULES:
        spark.sparkContext.addPyFile(path)
    sent = spark.sparkContext.broadcast(model)
    ratings = rated(spark.read.csv(options.ratings, header=True, escape='"').fillna(""), options)
    # with a group for each user, the many small tables would cost more than the scores
    parts = ratings.groupBy(functions.hash("user") % (4 * spark.sparkContext.defaultParallelism))
    columns = "user string, item string, rating double, score double"
    return parts.applyInPandas(lambda rows: answer(rows, sent.value, options.n), columns).toPandas()


def rated(table, options):
    """The columns of a table of Dask or Spark that are read. Raises DataError if one is missing."""
    missing = [column for column in RATED if column not in table.columns]
    if missing:
        raise DataError(f"{options.ratings}: no column {' or '.join(missing)}")
    return table[RATED]


def run(options):
    """Write the rows as a CSV file. Raises DataError."""
    out = output_path(options.out, options.ratings, options.model, *glob(options.ratings))
    model = Recommender.load(options.model)
    if "://" not in options.ratings and not glob(options.ratings):
        raise DataError(f"{options.ratings}: no such file")
    try:
        table = {"dask": with_dask, "spark": with_spark}[options.way](options, model)
    except ModuleNotFoundError as error:
        package = PACKAGES[options.way]
        raise DataError(f'{error.name} is missing; pip install "{package}"') from error
    except Exception as error:                             # whatever happened on a worker
        lines = str(error).strip().splitlines() or [repr(error)]
        line = lines[-1] if "Traceback" in str(error) else " ".join(lines)
        raise DataError(line.removeprefix("data.DataError: ")) from error
    table = table.sort_values("user", kind="stable")
    write_whole(out, table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))


if __name__ == "__main__":
    parser = Parser(prog="cluster.py", description="Score many users on a cluster.")
    add = parser.add_argument
    add("way", choices=PACKAGES)
    add("--model", required=True, metavar="FILE", help="a saved model")
    add("--ratings", required=True, metavar="FILE",
        help="a CSV whose first line names user, item and rating, or a pattern of several")
    add("--out", required=True, metavar="PATH", help="a CSV; replaced if present")
    add("-n", type=integer, default=10, help="items per user")
    add("--scheduler", metavar="ADDRESS", help="of Dask; the default is one on this machine")
    run_command("cluster.py", run, parser.parse_args(), "interrupted; no output file was changed")
