"""MovieLens and its kin: reading, fetching, folds, and a synthetic stand-in made from a seed."""

import argparse
import codecs
import csv
import difflib
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from svd import DataError, Ratings

BASE_URL = "https://files.grouplens.org/datasets/movielens/"
MD5 = {"ml-100k": "0e33842e24a9c977be4e0107933c0723", "ml-1m": "c4d9eecfca2ab87c1945afe126590906"}
WHEEL = "recbole==1.2.1"                               # a package that carries ML-100k as its example
WHEEL_MD5 = "6e47046882bad158b0efbb84cd5cb987"         # of the ratings below the header, as in u.data
ARCHIVE_LIMIT, MEMBER_LIMIT = 64 << 20, 32 << 20       # bytes; the largest file of ML-1m has 24 MB
LONGEST, MOST_KINDS = 1000, 1000                       # characters of an id or a title; genres, occupations
AGES = (1, 18, 25, 35, 45, 50, 56)                     # where a bracket begins; 1 is ML-1m's code of < 18
GENRES = ("unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir "
          "Horror Musical Mystery Romance Sci-Fi Thriller War Western").split()
ARTICLES = "the|a|an|la|le|les|l'|il|lo|el|los|las|der|die|das"    # as in "Matrix, The"
OCCUPATIONS = ("other,academic/educator,artist,clerical/admin,college/grad student,customer service,"
               "doctor/health care,executive/managerial,farmer,homemaker,K-12 student,lawyer,programmer,"
               "retired,sales/marketing,scientist,self-employed,technician/engineer,tradesman/craftsman,"
               "unemployed,writer").split(",")         # by ML-1m's code
COLUMNS = {"user": "user", "item": "item", "movie": "item", "rating": "rating", "age": "age",
           "gender": "gender", "occupation": "occupation", "title": "title", "movietitle": "title",
           "releaseyear": "year", "class": "genres", "genre": "genres", "genres": "genres"}      # by a file's header
RATED = ["user", "item", "rating"]                     # of these, what a file of ratings has to have


@dataclass(frozen=True)
class Dataset:
    """Ratings with the side information of users (E, Section 4.1) and items (F).

    user_ids (users,), item_ids (items,): text, in the order of rows and columns, sorted as numbers when
    all are integers; unrated ones too. E (users, columns), F (items, columns): float32 zeros and ones.
    """

    name: str
    ratings: Ratings
    user_ids: np.ndarray
    item_ids: np.ndarray
    E: np.ndarray
    E_names: list
    F: np.ndarray
    F_names: list
    titles: list


class Split(NamedTuple):
    """What is learned from, what may be looked at to predict, what is scored; all of the full shape."""

    train: Ratings
    profile: Ratings
    target: Ratings


def load(dataset, data_dir=None, seed=0, progress=False):
    """The Dataset called "ml-100k", "ml-1m" or "synthetic", or the one at a path (folder or CSV file).

    A named one is read from data_dir/NAME/ or data_dir/NAME.zip and fetched when neither is there.
    "synthetic:6040x3706x1000209" has that many users, items and ratings.
    seed: of the synthetic one. progress: a bar on stderr while fetching. Raises DataError.
    """
    sizes = re.fullmatch("synthetic(?::([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9}))?", str(dataset))
    if sizes:
        return synthetic(*(int(size) for size in sizes.groups() if size), seed=seed)
    if str(dataset).startswith("synthetic:"):
        raise DataError(f"{dataset}: no three sizes; write synthetic:USERSxITEMSxRATINGS")
    if dataset in MD5:
        if data_dir is None:
            raise DataError(f"{dataset} needs a data directory; give one, or use --dataset synthetic")
        return _dataset(dataset, *_named(dataset, Path(data_dir), progress))
    path = Path(dataset)
    if os.path.isfile(path):
        return _dataset(path.name, *_read_csv(*_folder(path.parent), path.name))
    tables = _tables(path, *_folder(path))
    if tables is None:
        problem = "no ratings here" if os.path.exists(path) else "no such file or folder"
        raise DataError(f"{path}: {problem}; give ml-100k, ml-1m, synthetic, a CSV file or a folder "
                        "with u.data, ratings.dat, NAME.inter or ratings.csv")
    return _dataset(os.path.basename(os.path.realpath(path)), *tables)


def split(ratings, test, fold, seed):
    """Fold 1..5 of a five-fold test. Depends on the seed and the (user, item) pairs only.

    "basic": a fifth of each user's ratings is the target, the rest is train and profile alike.
    "realtime": a fifth of the users is new, absent from train; a fifth of the ratings of each is the
    target, at least one, the rest is profile.
    """
    if test not in ("basic", "realtime") or fold not in range(1, 6):
        raise DataError(f"no fold {fold!r} of test {test!r}; give fold 1 to 5 of basic or realtime")
    rng = np.random.default_rng(seed)
    counts = ratings.counts                                               # (users,)
    rank = _ranks(ratings, rng)
    if test == "basic":
        first = rng.integers(5, size=len(counts))      # else users of few ratings all fill the first folds
        target = (rank + first[ratings.users]) % 5 == fold - 1
        train = ratings.where(~target)
        return Split(train, train, ratings.where(target))
    fold_of = np.full(len(counts), -1)
    rated = rng.permutation(np.flatnonzero(counts))
    fold_of[rated] = np.arange(len(rated)) % 5
    new = fold_of[ratings.users] == fold - 1
    target = rank < np.maximum(1, (counts + 2) // 5)[ratings.users]       # n / 5, rounded
    return Split(ratings.where(~new), ratings.where(new & ~target), ratings.where(new & target))


def first_ratings(ratings, n, seed):
    """The first n ratings of each user, in an order that the seed fixes: those of a smaller n are among them."""
    return ratings.where(_ranks(ratings, np.random.default_rng(seed)) < n)


def _ranks(ratings, rng):
    """The place (n,) of each rating, from 0, in a random order of its user's ratings."""
    order = np.lexsort((rng.permutation(len(ratings)), ratings.users))    # shuffled within each user
    rank = np.empty(len(ratings), np.int64)
    rank[order] = np.arange(len(ratings)) - ratings.starts[ratings.users]
    return rank


def synthetic(n_users=943, n_items=1682, n_ratings=100_000, seed=0):
    """Made-up Dataset of n_ratings ratings 1..5: five planted factors, biases and noise.

    Factors and biases come half from E and F, so that side information tells something; few users and
    items have most of the ratings. Memory grows with n_ratings, not with users x items.
    """
    if not 0 < n_ratings <= n_users * n_items:
        raise DataError(f"{n_ratings} ratings of {n_users} users x {n_items} items; give 1 to users x items")
    rng = np.random.default_rng(seed)
    user_ids, item_ids = np.arange(1, n_users + 1).astype(str), np.arange(1, n_items + 1).astype(str)
    E = _user_columns(pd.DataFrame({
        "age": rng.normal(33, 12, n_users).clip(10, 75).round(), "gender": rng.choice(["F", "M"], n_users),
        "occupation": rng.choice(OCCUPATIONS, n_users)}))
    years = (1999 - rng.exponential(12, n_items)).clip(1920).astype(int)
    titles = [f"Item {i} ({year})" for i, year in zip(item_ids, years)]
    genres = rng.choice(GENRES[1:], (n_items, 2))      # the same one twice is an item of one genre
    F = _item_columns(pd.DataFrame({
        "title": titles, "year": "", "genres": ["|".join(pair) for pair in genres]}))
    users, items = np.divmod(_pairs(n_users, n_items, n_ratings, rng), n_items)
    P, Q = _taste(E, rng), _taste(F, rng)              # (users, 6), (items, 6): bias, then five factors
    values = 3.55 + 0.45 * (P[users, 0] + Q[items, 0]) + rng.normal(0, 0.6, n_ratings)
    values += sum(0.3 * P[users, k] * Q[items, k] for k in range(1, 6))
    ratings = Ratings(users, items, values.round().clip(1, 5), (n_users, n_items))
    return Dataset("synthetic", ratings, user_ids, item_ids, E.to_numpy(np.float32), list(E.columns),
                   F.to_numpy(np.float32), list(F.columns), titles)


def _pairs(n_users, n_items, n, rng):
    """n distinct cells user * n_items + item, sorted; users and items of skewed popularity."""
    weights = rng.normal(0, 0.9, n_users), rng.normal(0, 1.4, n_items)
    cells = np.empty(0, np.int64)
    for flat in itertools.count(1):                    # flatter each round, or the rare cells take forever
        p_user, p_item = (np.exp(w / flat) / np.exp(w / flat).sum() for w in weights)
        drawn = rng.choice(n_users, n, p=p_user) * n_items + rng.choice(n_items, n, p=p_item)
        new = np.setdiff1d(drawn, cells)
        cells = np.append(cells, rng.permutation(new)[:n - len(cells)])
        if len(cells) == n:
            return np.sort(cells)


def _taste(side, rng):
    """(n, 6) standard normal: half of the variance comes from the columns of side, half is the own."""
    told = side.to_numpy(np.float64) @ rng.normal(size=(side.shape[1], 6))          # (n, C), (C, 6) -> (n, 6)
    told = (told - told.mean(0)) / (told.std(0) + 1e-9)
    return (told + rng.normal(size=told.shape)) / np.sqrt(2)


# From tables of text to a Dataset. The index of a table holds line numbers; its name is the file.


def _dataset(name, ratings, users, items):
    """Tables (user, item, rating), (user, age, gender, occupation), (item, title, year, genres) -> Dataset.

    users and items may be None: then the ids are the rated ones, E or F has no columns.
    """
    if len(ratings) == 0:
        raise DataError(f"{ratings.index.name}: no ratings in it; put some there")
    user_ids, rows = _ids(ratings, "user", users)
    item_ids, columns = _ids(ratings, "item", items)
    name = " ".join(name.encode(errors="replace").decode().split())          # what prints and stands in a table's title
    _check_once(ratings, rows * len(item_ids) + columns, "user {user!r} rates item {item!r}")
    values = _numbers(ratings, "rating")
    E, F, titles = pd.DataFrame(index=user_ids), pd.DataFrame(index=item_ids), item_ids
    if users is not None:
        _check_kinds(users, "gender", "occupation")
        E = _user_columns(users.set_index("user").loc[user_ids])
    if items is not None:
        _check(items, items["title"].str.len() > LONGEST, f"a title of more than {LONGEST} characters")
        _check_kinds(items, "genres")
        items = items.set_index("item").loc[item_ids]
        F, titles = _item_columns(items), _with_years(items)
    return Dataset(name, Ratings(rows, columns, values, (len(user_ids), len(item_ids))),
                   np.array(user_ids, str), np.array(item_ids, str),
                   E.to_numpy(np.float32), list(E.columns), F.to_numpy(np.float32), list(F.columns),
                   [title or i for title, i in zip(titles, item_ids)])


def _ids(ratings, column, listed):
    """Sorted ids of the users or items, and (n,) the place of each rating's id among them."""
    _check(ratings, ratings[column] == "", f"empty {column} id")
    known = ratings if listed is None else listed
    if listed is not None:
        _check(listed, listed[column] == "", f"empty {column} id")
        _check_once(listed, listed[column], f"{column} {{{column}!r}} is listed")
    ids = list(known[column].unique())
    _check(known, known[column].isin([i for i in ids if len(i) > LONGEST]), f"{column} id of over {LONGEST} characters")
    numeric = all(re.fullmatch("-?[0-9]{1,18}", i) for i in ids)
    ids.sort(key=(lambda i: (int(i), i)) if numeric else None)
    at = pd.Index(ids, dtype=object).get_indexer(ratings[column].astype(object))
    _check(ratings, at < 0, f"{column} {{{column}!r}} is not in {{file}}", file=known.index.name)
    return ids, at


def _numbers(table, column):
    """A column of text as (n,) float32."""
    with np.errstate(over="ignore"):
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64).astype(np.float32)
    _check(table, ~(np.abs(values) < 1e10), f"{column} {{{column}!r}} is not a finite number below 1e10")
    return values


def _check_once(table, keys, problem):
    """No two rows have the same key (n,)."""
    keys = np.asarray(keys)
    again = pd.Series(keys).duplicated().to_numpy()
    if again.any():
        first = table.index[np.argmax(keys == keys[np.argmax(again)])]
        _check(table, again, problem + " twice, first in line {first}", first=first)


def _check(table, bad, problem, **more):
    """Raise DataError about the first row where bad (n,); problem is a template over the row's columns."""
    bad = np.asarray(bad)
    if bad.any():
        row = np.argmax(bad)
        fields = table.iloc[row].astype(str).str[:100]
        raise _wrong(table.index.name, table.index[row], problem.format(**fields, **more))


def _check_kinds(table, *columns):
    """Columns of which each value makes a column of E or F hold a few kinds, not free text."""
    for column in columns:
        kinds = set()
        for line, value in table[column].items():
            kinds.update(value.split("|"))
            if len(kinds) > MOST_KINDS:
                raise DataError(f"{table.index.name}, line {line}: {column} has more than {MOST_KINDS} values; "
                                "leave that column out")


def _wrong(where, line, problem):
    return DataError(f"{where}, line {line}: {problem}; correct or remove that line")


def _user_columns(users):
    """E of Section 4.1 as a table: one-hot age bracket, gender, occupation. age is a number or NaN."""
    age = users["age"].to_numpy(np.float64)
    bracket = np.array(AGES)[np.searchsorted(AGES[1:], age, side="right")].astype(str)
    brackets = _one_hot("age", np.where(np.isnan(age), "", bracket))
    if len(brackets.columns):                          # all seven, also those nobody is in
        brackets = brackets.reindex(columns=[f"age={a}" for a in AGES], fill_value=0)
    return pd.concat([brackets, _one_hot("gender", users["gender"].to_numpy()),
                      _one_hot("occupation", users["occupation"].to_numpy())], axis=1)


def _item_columns(items):
    """F as a table: multi-hot genres, one-hot decade; the year may stand in the title, "(1995)"."""
    decades = [year and year[:3] + "0" for year in _years(items)]
    return pd.concat([_one_hot("genre", items["genres"].to_numpy()), _one_hot("decade", decades)], axis=1)


def _years(items):
    """The year of each item, or ""."""
    found = [re.findall("[0-9]{4}", year) or re.findall(r"\(([0-9]{4})\)", title)
             for year, title in zip(items["year"], items["title"])]
    return [years[-1] if years else "" for years in found]


def _with_years(items):
    """Titles as GroupLens writes them, "Heat (1995)": with the year, where it is known."""
    return [f"{title} ({year})" if title and year and not re.search(r"\([0-9]{4}\)", title) else title
            for title, year in zip(items["title"], _years(items))]


def _one_hot(name, values):
    """(n,) text -> (n, values) zeros and ones; several may be joined by "|", "" is none."""
    return pd.Series(values, dtype=object).str.get_dummies("|").add_prefix(name + "=")


# Formats. names: the files of a folder or archive; read(name) -> where it lies, its bytes.


def _tables(where, names, read):
    """Tables of the first format whose files are all in names; None when no file is of any."""
    inter = sorted(n for n in names if n.endswith(".inter"))
    formats = {("u.data", "u.user", "u.item"): _read_ml_100k,
               ("ratings.dat", "users.dat", "movies.dat"): _read_ml_1m,
               tuple(inter) or ("NAME.inter",): _read_atomic, ("ratings.csv",): _read_csv}
    for files, reader in formats.items():
        if set(files) <= set(names):
            return reader(names, read)
    for files in formats:
        there, missing = [f for f in files if f in names], [f for f in files if f not in names]
        if there:
            raise DataError(f"{where}: {there[0]} is here but {missing[0]} is missing; add it")
    return None


def _read_ml_100k(names, read):
    ratings = _table(*read("u.data"), "\t", ["user", "item", "rating", ""])
    users = _table(*read("u.user"), "|", ["user", "age", "gender", "occupation", ""])
    items = _table(*read("u.item"), "|", ["item", "title", "year", "", ""] + GENRES)
    _check(items, ~items[GENRES].isin(["0", "1"]).all(axis=1), "a genre that is neither 0 nor 1")
    genres = ["|".join(np.array(GENRES)[row]) for row in items[GENRES].to_numpy() == "1"]
    return ratings, users.assign(age=_numbers(users, "age")), items.assign(genres=genres)


def _read_ml_1m(names, read):
    users = _table(*read("users.dat"), "::", ["user", "gender", "age", "occupation", ""])
    items = _table(*read("movies.dat"), "::", ["item", "title", "genres"])
    ratings = _table(*read("ratings.dat"), "::", ["user", "item", "rating", ""])
    names = {str(code): name for code, name in enumerate(OCCUPATIONS)}
    occupations = [names.get(code, code) for code in users["occupation"]]
    return ratings, users.assign(age=_numbers(users, "age"), occupation=occupations), items.assign(year="")


def _read_atomic(names, read):
    """RecBole's atomic files: NAME.inter, and NAME.user, NAME.item where there are."""
    inter = [n for n in names if n.endswith(".inter")]
    if len(inter) > 1:
        raise DataError(f"{read(inter[0])[0]}: {inter[1]} lies beside it; keep one data set in a folder")
    stem = inter[0][:-len(".inter")]
    ratings, users, items = _headed(names, read, "\t", inter[0], stem + ".user", stem + ".item")
    if items is not None:
        items["genres"] = items["genres"].str.replace(" ", "|", regex=False)
    return ratings, users, items


def _read_csv(names, read, name="ratings.csv"):
    """A CSV of ratings; titles and genres from a movies.csv beside it."""
    return _headed(names, read, ",", name, None, None if name == "movies.csv" else "movies.csv")


def _headed(names, read, sep, ratings, users, items):
    """Tables of files whose first line names the columns; users and items are None where not in names."""
    ratings = _table(*read(ratings), sep, needed=RATED)
    users = _table(*read(users), sep, needed=["user"], used=["age", "gender", "occupation"]) if users in names else None
    items = _table(*read(items), sep, needed=["item"], used=["title", "year", "genres"]) if items in names else None
    if users is not None:
        users = users.assign(**{c: "" for c in ("gender", "occupation", "token_age") if c not in users})
        token = pd.to_numeric(users["token_age"], errors="coerce")     # may be text: then it is unknown
        users["age"] = _numbers(users, "age") if "age" in users else token.astype(np.float64)
    if items is not None:
        items = items.assign(**{c: "" for c in ("title", "year", "genres") if c not in items})
    return ratings, users, items


def _table(where, data, sep, fields=None, needed=(), used=()):
    """Delimited bytes as a table of text; its index holds the line numbers, from 1, its name is where.

    fields: the columns' names, "" for one to leave out, in UTF-8 or else Latin-1; or None: UTF-8 whose first line
    names them, all of needed, perhaps some of used. All lines have as many fields; blank ones are skipped.
    """
    data = _clean(where, data, latin=fields is not None)
    if sep == "::":                                    # pandas is fast with single characters only
        if b"\t" in data:
            raise _wrong(where, data.count(b"\n", 0, data.index(b"\t")) + 1, "a tab, where :: separates")
        data, sep = data.replace(b"::", b"\t"), "\t"
    quoted = sep == "," and b'"' in data
    lines, widths, data = _records(where, data, sep, quoted)
    parse = partial(pd.read_csv, sep=sep, header=None, dtype=str, na_filter=False, skip_blank_lines=False,
                    encoding="utf-8", quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    headed = fields is None
    if headed:
        header = parse(io.BytesIO(data), nrows=1).iloc[0] if len(lines) else []
        fields = _header(f"{where}, line {[*lines, 1][0]}", header, needed, used)
    for row in np.flatnonzero(widths != len(fields))[:1]:
        raise _wrong(where, lines[row], f"{widths[row]} fields where {len(fields)} are expected")
    lines = lines[int(headed):]
    use = [i for i, field in enumerate(fields) if field]
    if len(lines) == 0:
        return pd.DataFrame(columns=[fields[i] for i in use], index=pd.Index([], name=where), dtype=str)
    table = parse(io.BytesIO(data), skiprows=int(headed), usecols=use).rename(columns=dict(enumerate(fields)))
    return table.set_index(pd.Index(lines, name=where))


def _header(where, header, needed, used=()):
    """Our names for the columns of a file: userId or user_id:token -> user; "" for those neither needed nor used."""
    fields = []
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise DataError(f"{where}: no commas in {header[0][:100]!r}; save it with a comma between fields")
    for name, _, kind in (re.sub("[_ ]", "", h.lower()).partition(":") for h in header):
        field = COLUMNS.get(re.sub("id$", "", name), "")
        wanted = field in (*needed, *used) and (field in ("user", "item") or not name.endswith("id"))
        fields.append(("token_age" if field == "age" and kind != "float" else field) if wanted else "")
    for field in sorted(set(fields) - {""} | set(needed)):
        if fields.count(field) != 1:
            raise DataError(f"{where}: the first line must name {field} once, as userId,movieId,rating or "
                            "user_id,item_id,rating do; correct that header")
    return fields


def _clean(where, data, latin):
    """The bytes as UTF-8 with no byte order mark and lines ending in a newline; latin: may be Latin-1."""
    if data.startswith(codecs.BOM_UTF8):
        data = data[len(codecs.BOM_UTF8):]
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if not latin:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{where}, line {line}: not UTF-8 text; save it as UTF-8") from error
        data = data.decode("latin-1").encode()
    problems = {data.find(b"\0"): "a NUL byte", data.find(codecs.BOM_UTF8): "a byte order mark inside the file"}
    for at in sorted(problems.keys() - {-1}):
        raise _wrong(where, data.count(b"\n", 0, at) + 1, problems[at])
    return data if data.endswith(b"\n") else data + b"\n"


def _records(where, data, sep, quoted):
    """Each record's first line and number of fields, and data without the blank ones; vectorized, for millions."""
    characters = np.frombuffer(data, np.uint8)
    newlines, inside = np.flatnonzero(characters == ord("\n")), np.zeros(len(data), bool)
    if quoted:                                         # odd: in quotes; a doubled quote ends and starts them
        quotes = characters == ord('"')
        inside = np.cumsum(quotes, dtype=np.uint8) % 2 == 1
        opening, closing = np.flatnonzero(quotes & inside), np.flatnonzero(quotes & ~inside)
        edge = np.isin(characters, [ord(c) for c in sep + '\n"'])
        stray = np.append(opening[~edge[opening - 1]], closing[~edge[closing + 1]])
        if inside[-1] or len(stray):
            line = np.searchsorted(newlines, stray.min() if len(stray) else opening[-1]) + 1
            raise _wrong(where, line, "a quote that is not closed or not at the start or end of a field")
    ends = newlines[~inside[newlines]]
    starts = np.append(0, ends[:-1] + 1)
    separators = np.flatnonzero((characters == ord(sep)) & ~inside)
    widths = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    full = widths > 1
    if not full.all():                                 # one field, or blank
        full |= np.logical_or.reduceat(~np.isin(characters, [ord(c) for c in " \t\n\v\f\r"]), starts)
        data = characters[np.repeat(full, ends + 1 - starts)].tobytes()
    return (np.searchsorted(newlines, starts) + 1)[full], widths[full], data


# What people give to a trained model (an lfg.Recommender) and take from it.


def scored(model, path, n):
    """Lines of a CSV user,item,rating: the n best items of each user of the CSV at path, as bytes, user by user."""
    yield b"user,item,rating\n"
    for user, items, ratings in users_of(model, path):
        places, predicted = model.recommend(items, ratings, n=n)
        text = io.StringIO()
        rows = ((user, item, f"{rating:.4f}") for item, rating in zip(model.item_ids[places], predicted))
        csv.writer(text, lineterminator="\n").writerows(rows)
        yield text.getvalue().encode()


def shown(model, places, predicted, as_json):
    """What recommend prints of items by place (n,) and their predicted ratings (n,): a table, or JSON."""
    found = [{"rank": rank, "id": str(model.item_ids[place]), "title": str(model.titles[place]),
              "rating": round(float(rating), 3)} for rank, (place, rating) in enumerate(zip(places, predicted), 1)]
    if as_json:
        return json.dumps(found, indent=1, ensure_ascii=False)
    width = max([len(one["title"]) for one in found], default=5)
    return "\n".join([f"{'Rank':>4}  {'Title':{width}}  Predicted"] + [
        f"{one['rank']:>4}  {one['title']:{width}}  {one['rating']:>9.2f}" for one in found])


def users_of(model, path):
    """(user, items (n,), ratings (n,)) of each user of a CSV that names user, item and rating in its first line.

    Reads on as it yields: of the users before, only the ids stay in memory.
    """
    place_of, seen, user, rated = {str(name): place for place, name in enumerate(model.item_ids)}, set(), None, {}
    ratings = {}                                              # by text: there are few, and a million lines
    with _open_text(path) as file:
        lines = _csv_lines(file, path)
        number, header = next(lines, (1, []))
        names = _header(f"{path}, line {number}", header, needed=RATED)
        user_at, item_at, rating_at = map(names.index, RATED)
        for number, fields in lines:
            if len(fields) != len(header):
                raise _wrong(path, number, f"{len(fields)} fields where {len(header)} are expected")
            name, item = fields[user_at], fields[item_at]
            if not name:
                raise _wrong(path, number, "empty user id")
            if name != user:
                if rated:
                    yield user, list(rated), list(rated.values())
                if name in seen:
                    raise DataError(f"{path}, line {number}: user {name[:100]!r} was there before; sort by user")
                user, rated = name, {}
                seen.add(name)
            place = place_of.get(item)
            if place is None or place in rated:
                problem = "is not in the model" if place is None else f"is rated twice by user {name[:100]!r}"
                raise _wrong(path, number, f"item {item[:100]!r} {problem}")
            text = fields[rating_at]
            rated[place] = ratings[text] if text in ratings else _rating(model, text, path, number)
            if len(ratings) < 1000:
                ratings[text] = rated[place]
    if rated:
        yield user, list(rated), list(rated.values())


def read_ratings(model, typed, path):
    """Places (n,) and ratings (n,) of items, from texts TITLE=RATING and from the lines title,rating of a CSV, or None.

    A first line that ends in the word rating is a header; when it begins with item or movie, ids follow.
    """
    given = [(f"--rate {text[:100]}", *text.rpartition("=")[::2]) for text in typed]
    for where, title, _ in given:
        if not title:
            raise DataError(f"{where}: no title or no rating; write TITLE=RATING")
    rated_at, ratings, names = {}, [], _names(model)          # where each place is rated
    for where, title, rating in itertools.chain(given, _rated_lines(path) if path else ()):
        try:
            place = find_item(model, title.strip(), names)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if place in rated_at:
            raise DataError(f"{where}: rated twice, first in {rated_at[place]}; leave one out")
        rated_at[place] = where
        ratings.append(_rating(model, rating, where))
    return list(rated_at), ratings


def _rating(model, text, where, line=None):
    """A rating within the model's scale, which is of float32."""
    number = re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?\s*", text, re.ASCII | re.IGNORECASE)
    with np.errstate(over="ignore"):
        rating = np.float32(text if number else np.nan)
    if not model.low <= rating <= model.high:
        where = where if line is None else f"{where}, line {line}"
        raise DataError(f"{where}: {text[:100]!r} is no rating from {model.low:g} to {model.high:g}; give one")
    return rating


def read_side(model, profile):
    """The side (columns of E,) of a {"age": 25, "gender": None...}; what is None stays at the training users' mean."""
    side = model.E_mean.copy()
    for kind, given in profile.items():
        known = {name.partition("=")[2]: at for at, name in enumerate(model.E_names) if name.startswith(kind + "=")}
        if kind == "age":
            known = {name: at for name, at in known.items() if re.fullmatch("[0-9]{1,3}", name)}
        if given is None:
            continue
        if not known:
            raise DataError(f"--{kind}: the model makes no use of it; leave it out")
        value = given
        if kind == "age":                                     # brackets are named by where they begin
            value = str(max((int(a) for a in known if int(a) <= given), default=min(map(int, known))))
        matches = [name for name in known if name.casefold() == value.casefold()]
        if not matches:
            raise DataError(f"--{kind} {given}: not known; give one of {', '.join(known)}")
        side[list(known.values())] = 0
        side[known[matches[0]]] = 1
    return side


def find_item(model, text, names=None):
    """The place of the item that a user calls text: id:54, or a title, whatever its case and its article's place.

    The year in brackets may be left out where one film has the name. names: what _names gives, to look up many.
    Raises DataError that names the nearest titles.
    """
    if text.startswith("id:"):
        found = np.flatnonzero(model.item_ids == text[3:].strip())
        if len(found) == 0:
            raise DataError(f"{text[:100]} is no item's id; give an id of the data that the model was trained on, or a "
                            "title, in a file below a first line title,rating")
        return found[0]
    names = names or _names(model)
    (wanted, *_), year = _title_keys(text)
    found = [place for place, its_year in names.get(wanted, []) if year in (None, its_year)]
    if not found:                                             # no film's name: then it may be an id
        found = np.flatnonzero(model.item_ids == text).tolist()
    if len(found) == 1:
        return found[0]
    problem, advice = "several items are called", "add the year, or write id:ID"
    if not found:
        near = difflib.get_close_matches(wanted[:LONGEST], names, n=5, cutoff=0.5)
        found = dict.fromkeys(names[key][-1][0] for key in near)
        problem, advice = "no item is called", "the nearest are"
    listed = ", ".join(f"{model.titles[place]} (id:{model.item_ids[place]})" for place in found)
    advice = f"{advice}: {listed}" if listed else "nothing is near; give another"
    raise DataError(f"{problem} {text[:100]!r}; {advice}")


def _names(model):
    """{name: [(place, year)]} of all the names under which items are found."""
    names = {}
    for place, title in enumerate(model.titles):
        keys, year = _title_keys(str(title))
        for key in dict.fromkeys(keys):
            names.setdefault(key, []).append((place, year))
    return names


def _title_keys(title):
    """Names under which "Postman, The (Postino, Il) (1994)" is found, "il postino" among them; and its year."""
    name, year = re.fullmatch(r"(.*?)(?: ?\(([0-9]{4})\))?", " ".join(title.casefold().split())).groups()
    parts = [name] + re.findall(r"\(([^()]+)\)", name) + [re.sub(r"\([^()]*\)", "", name)]
    moved = [re.sub(rf"^(.+), ({ARTICLES})$", r"\2 \1", " ".join(part.split())) for part in parts]
    return [key.replace("' ", "'") for key in moved if key] or [""], year         # "L' Été" is "L'Été"


def _rated_lines(path):
    """(where, title or id:ID, rating) of each line."""
    prefix, first = "", True
    with _open_text(path) as file:
        for number, fields in _csv_lines(file, path):
            if first and fields[-1].strip().lower() == "rating":
                prefix = "id:" * fields[0].lower().startswith(("item", "movie"))
            elif len(fields) != 2:
                raise DataError(f"{path}, line {number}: {len(fields)} fields; write a title or id:ID and a rating, "
                                "with a comma between")
            else:
                yield f"{path}, line {number}", prefix + fields[0], fields[1]
            first = False


@contextmanager
def _open_text(path):
    """A CSV for reading, - being standard input; what is no UTF-8 in it stands as surrogates. Raises DataError."""
    utf8 = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    try:
        if path == "-":
            if sys.stdin is None:
                raise DataError("-: standard input is closed; name a CSV file")
            sys.stdin.reconfigure(**utf8)
            yield sys.stdin
        else:
            with open(path, **utf8) as file:
                yield file
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a CSV file") from error


def _csv_lines(file, path):
    """(number of its first line, fields) of each record that is not blank."""
    reader, number = csv.reader(file, strict=True), 1
    try:
        for fields in reader:
            text = "".join(fields)
            text.encode()                                     # which surrogates prevent
            if "\0" in text or "\r" in text or "\ufeff" in text:
                raise _wrong(path, number, "a NUL byte, a carriage return or a byte order mark in it")
            if len(fields) > 1 or text.strip():
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: {error}; correct that line") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 text; save it as UTF-8") from error


def export_model(model, folder):
    """Writes what inference reads as plain arrays, a manifest and test vectors, to a folder that is new or empty.

    All of it or nothing. Raises DataError.
    """
    if not folder or os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise DataError(f"{folder}: exists and is not an empty folder; name another")
    arrays, offset, vectors = [], 0, _vectors(model)
    with _told(folder, "name a folder that can be made"), _beside(folder) as part:
        part.mkdir()
        with open(part / "weights.bin", "wb") as file:
            for name, (array, meaning) in _exported(model).items():
                file.write(array.astype("<f4").tobytes())
                arrays.append({"name": name, "shape": array.shape, "offset": offset, "meaning": meaning})
                offset += 4 * array.size
        manifest = {"format": 1, "file": "weights.bin", "type": "float32, little-endian, last index fastest",
                    "arrays": arrays, "layers": len(model.layers), "seeds": len(model.sides), "slope": 0.01,
                    "scale": [model.low, model.high], "unit": model.unit, "ridge": [float(x) for x in model.ridge],
                    "weights": model.weights, "E_names": model.E_names,
                    "items": [{"id": str(i), "title": str(t), "rated": bool(r)}
                              for i, t, r in zip(model.item_ids, model.titles, model.rated)]}
        for name, content in [("manifest.json", manifest), ("vectors.json", vectors)]:
            with open(part / name, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1, ensure_ascii=False)


def _exported(model):
    """{name: (array, what it is)} of all that inference reads."""
    found = {"E_mean": (model.E_mean, "the side of a user of whom nothing is known")}
    if model.layers:
        found.update(W_E=(model.W_E, "hidden, of each column of E"), b=(model.b0, "hidden, of everyone"),
                     W_H=(model.W_H, "hidden, of each item, times the rating / unit / sqrt(n)"),
                     W_1=(model.W_1, "hidden, of each item, times 1 / sqrt(n)"))
        for n, (W, b) in enumerate(model.layers, 1):
            found.update({f"W{n}": (W, "the next Linear's weights"), f"b{n}": (b, "its bias")})
        found.update(M1=(model.M1, "item factors, the last column ones"), base=(model.base, "mu + bi of each item"))
    for n, (q1, mean_user) in enumerate(model.sides):
        found.update({f"q{n}": (q1, "item factors, the last column ones"),
                      f"mean{n}": (mean_user, "what the mean user would rate / unit")})
    return found


def _vectors(model, n=20):
    """Inputs of n made-up users, from an empty profile to a long one, and what inference gives for them."""
    rng, found = np.random.default_rng(0), []
    for size in [0, 1, 2] + rng.integers(3, max(4, min(300, len(model.item_ids))), n - 3).tolist():
        items = rng.choice(len(model.item_ids), min(size, len(model.item_ids)), replace=False)
        ratings = rng.uniform(model.low, model.high, len(items)).astype(np.float32)
        side = (rng.random(len(model.E_mean)) < 0.1).astype(np.float32)
        values, asked = ratings / np.float32(model.unit), rng.choice(len(model.item_ids), 5)
        predicted = model.predict(items, ratings, side)[asked]        # first, as it tells of weights out of all measure
        G = model.generate(items, values, side) if model.layers else np.zeros(1)
        solved = [model.solve(items, values, *one).tolist() for one in model.sides]
        found.append({"items": items.tolist(), "ratings": ratings.tolist(), "side": side.tolist(),
                      "factors": G[:-1].tolist(), "bias": float(G[-1]), "solved": solved,
                      "predictions": [[int(i), float(p)] for i, p in zip(asked, predicted)]})
    return found


# Where the files lie: a folder, an archive, or still the network.


def _named(name, data_dir, progress):
    """Tables of the data set NAME in data_dir: its folder, its archive, or what can be fetched."""
    folder, archive = data_dir / name, data_dir / f"{name}.zip"
    tables = _tables(folder, *_folder(folder))
    if tables is None and os.path.isfile(archive):
        tables = _tables(archive, *_archive(archive, name))
        if tables is None:
            raise DataError(f"{archive}: no ratings below {name}/; delete it and load again")
    if tables is None:
        _fetch(name, folder, archive, progress)
        return _named(name, data_dir, progress)
    return tables


def _folder(folder):
    """Names of the files of a folder, none where there is no folder; and read."""
    def read(name):
        with _told(folder / name, "make it readable"):
            return folder / name, (folder / name).read_bytes()
    with _told(folder, "make it readable"):
        names = os.listdir(folder) if os.path.isdir(folder) else []
    return [name for name in names if os.path.isfile(folder / name)], read


def _archive(path, top):
    """Names of the files of folder top of a zip archive; and read, in memory: nothing is unpacked."""
    def read(name):
        member = f"{top}/{name}"
        with _told(path, "delete it and load again"), zipfile.ZipFile(path) as archive:
            small = archive.getinfo(member).file_size <= MEMBER_LIMIT
            with archive.open(member) as file:
                data = file.read(MEMBER_LIMIT + 1) if small else b""
            if not 0 < len(data) <= MEMBER_LIMIT:
                raise ValueError(f"{name} is empty or larger than {MEMBER_LIMIT >> 20} MB")
        return f"{path}/{member}", data
    with _told(path, "delete it and load again"), zipfile.ZipFile(path) as archive:
        names = [n[len(top) + 1:] for n in archive.namelist() if n.startswith(top + "/")]
        if len(set(names)) < len(names):
            raise ValueError("a file is in it twice")
    return names, read


@contextmanager
def _told(what, remedy):
    """Turn what a library raises, of which zipfile has too many kinds to list, into a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                   # of a zip's odd names
            yield
    except DataError:
        raise
    except Exception as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{what}: {problem if str(problem) else type(error).__name__}; {remedy}") from error


def _fetch(name, folder, archive, progress):
    """Put NAME.zip or, for ml-100k where that cannot be had, its folder into the data directory."""
    url, tried = f"{BASE_URL}{name}.zip", [folder, archive]
    if progress:
        print(f"{name} is not in {folder.parent}: fetching it from {url}"
              + (f", else with pip out of {WHEEL}" if name == "ml-100k" else ""), file=sys.stderr)
    try:
        data = _download(url, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        tried.append(f"{url} ({error})")
    else:
        _check_md5(data, MD5[name], url)
        return _keep({archive.name: data}, archive.parent)
    if name == "ml-100k":
        try:
            files = _download_wheel()
        except (OSError, subprocess.SubprocessError, DataError) as error:
            tried.append(f"pip download {WHEEL} ({error})")
        else:
            ratings = files["ml-100k/ml-100k.inter"].partition(b"\n")[2]
            _check_md5(ratings, WHEEL_MD5, f"ml-100k.inter of {WHEEL}")
            return _keep(files, folder.parent)
    raise DataError(f"cannot get {name}: tried {', '.join(map(str, tried))}; put {name}.zip from "
                    f"grouplens.org/datasets/movielens in {folder.parent}, or use --dataset synthetic")


class _HttpsRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):
        if not url.lower().startswith("https://"):
            raise OSError(f"redirected to {url}, which is not https")
        return super().redirect_request(request, file, code, message, headers, url)


def _download(url, progress):
    """The bytes at url, at most ARCHIVE_LIMIT of them."""
    from tqdm import tqdm
    opener, data = urllib.request.build_opener(_HttpsRedirect), bytearray()
    with opener.open(url, timeout=10) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, desc=url, unit="B", unit_scale=True, disable=not progress) as bar:
            for chunk in iter(lambda: answer.read(1 << 16), b""):
                data += chunk
                bar.update(len(chunk))
                if len(data) > ARCHIVE_LIMIT:
                    raise OSError(f"larger than {ARCHIVE_LIMIT >> 20} MB")
    if len(data) < size:
        raise OSError(f"the connection ended after {len(data)} of {size} bytes")
    return bytes(data)


def _download_wheel():
    """ML-100k's atomic files, path -> bytes, out of a package that pip downloads by the user's settings."""
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch, WHEEL],
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
                             env={**os.environ, "TMPDIR": scratch})            # which a pip that is killed leaves full
        wheels = list(Path(scratch).glob("*.whl"))
        if not wheels:
            raise OSError((run.stderr.strip().splitlines() or ["no wheel"])[-1])
        _, read = _archive(wheels[0], "recbole/dataset_example/ml-100k")
        return {f"ml-100k/ml-100k.{kind}": read(f"ml-100k.{kind}")[1] for kind in ("inter", "user", "item")}


def _check_md5(data, expected, what):
    got = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if got != expected:
        raise DataError(f"{what}: MD5 {got} where {expected} is expected; nothing was kept, try again later")


def _keep(files, data_dir):
    """Write files, path below data_dir -> bytes: one file, or those of a new folder, as a whole or not."""
    top = data_dir / Path(next(iter(files))).parts[0]
    with _told(top, "move it away or give another data directory"), _beside(top) as part:
        data_dir.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = part.joinpath(*Path(name).parts[1:])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)


@contextmanager
def _beside(path):
    """A Path beside path for a file or a folder, which then takes path's place, or goes when that is not reached."""
    real = os.path.realpath(path)
    part = Path(real).with_name(f".{os.urandom(8).hex()}.part")
    try:
        yield part
        os.replace(part, real)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif part.exists():
            part.unlink()


# What the commands of lfg.py and experiments.py share.


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
arrived = []                                                  # signals: what is closed after one may raise an own error


def command(main):
    """Runs main as a process of its own: the first signal is a KeyboardInterrupt, until main is done."""
    def stop(number, frame):
        arrived.append(number)
        sys.unraisablehook = lambda _: None                   # nor may what is thrown away complain
        if len(arrived) == 1:
            raise KeyboardInterrupt
        if len(arrived) > 3:                                  # whatever it is that takes its time
            os._exit(128 + number)
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]             # as by nohup
    for number in heard:
        signal.signal(number, stop)
    code = main()
    for number in heard:                                      # or the interpreter, while it ends, shows a traceback
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def guarded(name, run, interrupted):
    """Runs a command; the exit code: run's or 0, 1 when stdout was closed, 2 after a mistake, 128 + a signal's number.

    A mistake is told in one line on stderr, a signal in the one given, unless it is "".
    """
    try:
        for stream in ("stdout", "stderr"):                   # closed ones have no file
            if getattr(sys, stream) is None:
                setattr(sys, stream, open(os.devnull, "w"))
        if hasattr(sys.stdout, "reconfigure"):                # a terminal that knows no Greek shows question marks
            sys.stdout.reconfigure(errors="replace")
        try:
            code = run() or 0
        except SystemExit as end:                             # of argparse, which has told why
            code = end.code
        sys.stdout.flush()
        return code
    except BaseException as error:
        ending = _ending(error, interrupted)
        if ending is None:
            raise
    problem, code = ending
    try:
        print(f"{name}: {' '.join(problem.split())}\n" if problem else "", end="", file=sys.stderr, flush=True)
    except OSError:                                           # nobody hears it
        sys.stderr = open(os.devnull, "w")
    return code


def _ending(error, interrupted):
    """(what to say, exit code) after an error that ended a command; None when it is a bug."""
    if arrived or isinstance(error, KeyboardInterrupt):
        return interrupted, 128 + (arrived or SIGNALS)[0]
    if isinstance(error, DataError):
        return str(error), 2
    if isinstance(error, MemoryError):
        return "not enough memory; give less data", 2
    if not isinstance(error, OSError):
        return None
    if error.filename:
        return f"{error.filename}: {error.strerror}; give another", 2
    sys.stdout = open(os.devnull, "w")                        # of stdout; or the interpreter flushes it once more
    if isinstance(error, BrokenPipeError):                    # its reader has left
        return "", 1
    return f"{error.strerror or error}; make room or redirect the output", 2


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see --help\n")


def output_path(path, *sources):
    """The file that path names, links followed, which may not exist yet. Raises DataError before any work is done.

    sources: what is read, files or folders of data: neither these nor data in them may be replaced.
    """
    real = os.path.realpath(path)
    beside = [os.path.realpath(source) for source in sources]
    data = os.path.dirname(real) in beside and re.search(r"\.(data|user|item|dat|inter|csv)$", real)
    if path == "-":
        raise DataError("-: standard output is for messages; give the name of a file")
    if real in beside or data:
        raise DataError(f"{path}: is or may be what is read; give a file of its own")
    folder = os.path.dirname(real)
    if not os.path.isdir(folder) or os.path.exists(real) and not os.path.isfile(real):
        raise DataError(f"{path}: not a plain file in a folder that exists; give another name")
    if not os.access(folder, os.W_OK):
        raise DataError(f"{path}: Permission denied; name a folder that can be written to")
    return real


def whole(least, most=10 ** 6):
    """A type for argparse: whole numbers from least to most."""
    def read(text):
        if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:100]!r} is no whole number from {least} to {most}")
        return int(text)
    return read
