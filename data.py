"""Ratings, data sets and their folds; reading and fetching MovieLens and files like it.

Needs only NumPy when imported; pandas is imported where it is used.
"""

import csv
import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

URL = "https://files.grouplens.org/datasets/movielens/"
MD5 = {"ml-100k": "0e33842e24a9c977be4e0107933c0723", "ml-1m": "c4d9eecfca2ab87c1945afe126590906"}
WHEEL = "recbole==1.2.1"                        # a package that contains ML-100k as an example
WHEEL_MD5 = "6e47046882bad158b0efbb84cd5cb987"  # of its ratings below the header, as in u.data
SIZE_LIMIT = 64 << 20                           # bytes of an archive; ML-1m unpacks to 25 MB
MOST_VALUES = 1000                              # per column; each becomes a column of E or F
AGES = (1, 18, 25, 35, 45, 50, 56)              # where each bracket starts; 1 is "under 18"
GENRES = ("unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
          "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western").split()
OCCUPATIONS = ("other,academic/educator,artist,clerical/admin,college/grad student,"
               "customer service,doctor/health care,executive/managerial,farmer,homemaker,"
               "K-12 student,lawyer,programmer,retired,sales/marketing,scientist,self-employed,"
               "technician/engineer,tradesman/craftsman,unemployed,writer").split(",")  # by code
RATED = ["user", "item", "rating"]
PROFILE = ["user", "age", "gender", "occupation"]
ABOUT = ["item", "title", "genres", "year"]
ALIASES = {"userid": "user", "itemid": "item", "movieid": "item", "movie": "item",
           "movietitle": "title", "releaseyear": "year", "class": "genres", "genre": "genres"}
LAYOUTS = {  # files without header: names, separators, columns ("" for one that is not used)
    "u.data": [("u.data", "\t", [*RATED, ""]), ("u.user", "|", [*PROFILE, ""]),
               ("u.item", "|", ["item", "title", "year", "", "", *GENRES])],
    "ratings.dat": [("ratings.dat", "::", [*RATED, ""]),
                    ("users.dat", "::", ["user", "gender", "age", "occupation", ""]),
                    ("movies.dat", "::", ["item", "title", "genres"])]}


class DataError(ValueError):
    """A mistake in a table, a file or an option that the caller gave. The message is one line."""

    def __init__(self, message):
        super().__init__(" ".join(message.split()))


class Ratings:
    """Observed entries of a (users x items) matrix, sorted by user, then by item.

    users, items: (n,) int32; values: (n,) float32; counts: (users,), ratings per user;
    the ratings of user u are at starts[u]:starts[u + 1]. `T` is the transposed matrix.
    Raises ValueError if lengths differ, a rating is outside the shape or not finite, or a pair is
    rated twice.
    """

    def __init__(self, users, items, values, shape):
        if not len(users) == len(items) == len(values):
            raise ValueError("users, items and ratings must have the same length")
        users = np.asarray(users, np.int32)
        items = np.asarray(items, np.int32)
        order = np.lexsort((items, users))
        users = users[order]
        items = items[order]
        values = np.asarray(values, np.float32)[order]
        inside = (0 <= users) & (users < shape[0]) & (0 <= items) & (items < shape[1])
        twice = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
        if not inside.all() or not np.isfinite(values).all() or twice.any():
            raise ValueError("a rating is outside the shape or not finite, or a pair occurs twice")
        self._set(users, items, values, shape)

    def _set(self, users, items, values, shape):
        """Store arrays that are known to be valid and sorted."""
        self.users = users
        self.items = items
        self.values = values
        self.shape = shape
        self.counts = np.bincount(users, minlength=shape[0])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        return self

    def __len__(self):
        return len(self.values)

    def mean(self):
        """The mean rating. Raises ValueError if there are no ratings."""
        if len(self) == 0:
            raise ValueError("no ratings")
        return self.values.mean()

    @property
    def T(self):
        """The transposed matrix: items as rows, users as columns."""
        order = np.argsort(self.items, kind="stable")          # keeps the users of an item sorted
        T = Ratings.__new__(Ratings)
        return T._set(self.items[order], self.users[order], self.values[order], self.shape[::-1])

    def where(self, keep):
        """The ratings picked by a boolean mask or an index array, in a matrix of the same shape."""
        mask = np.zeros(len(self), bool)
        mask[keep] = True
        part = Ratings.__new__(Ratings)
        return part._set(self.users[mask], self.items[mask], self.values[mask], self.shape)

    def with_values(self, values):
        """The same users and items with other values (n,)."""
        if len(values) != len(self):
            raise ValueError("values and ratings must have the same length")
        other = Ratings.__new__(Ratings)
        return other._set(self.users, self.items, np.array(values, np.float32), self.shape)

    def rows(self, users):
        """Entries of some users: index into users (n,), items (n,), values (n,)."""
        sizes = self.counts[users]
        first = np.cumsum(sizes) - sizes  # where each user starts in the result
        at = np.repeat(self.starts[users] - first, sizes) + np.arange(sizes.sum())
        return np.repeat(np.arange(len(users)), sizes), self.items[at], self.values[at]

    def dense_blocks(self, size=512):
        """Yield the matrix in blocks of rows (size, items), 0 where nothing is observed."""
        for start in range(0, self.shape[0], size):
            users = np.arange(start, min(start + size, self.shape[0]))
            row, item, value = self.rows(users)
            block = np.zeros((len(users), self.shape[1]), np.float32)
            block[row, item] = value
            yield block


@dataclass(frozen=True)
class Dataset:
    """Ratings, and what is known of users (E, Section 4.1) and items (F), rated or not.

    user_ids, item_ids: arrays, sorted as numbers if all are integers, else as text.
    E: (users, columns), F: (items, columns): float32, mostly zeros and ones.
    titles, genres ("A|B" or ""): lists of text; years: (items,) int32, 0 if unknown.
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
    genres: list
    years: np.ndarray


class Split(NamedTuple):
    """Ratings to train on, to show to the model (`profile`), and to predict; all of one shape."""

    train: Ratings
    profile: Ratings
    target: Ratings


def load(dataset, data_dir=None, seed=0, progress=False, columns=None):
    """The Dataset called "ml-100k", "ml-1m" or "synthetic", or the one in a folder or CSV file.

    A named one is read from data_dir/NAME/ or data_dir/NAME.zip, and fetched if neither is there.
    "synthetic:6040x3706x1000209" has that many users, items and ratings; seed is for these.
    progress: report downloads on stderr. columns: {name in a CSV file: "user", "item" or
    "rating"} for files with other headers. Raises DataError.
    """
    sizes = re.fullmatch("synthetic(?::([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9}))?", str(dataset))
    if sizes:
        return synthetic(*(int(size) for size in sizes.groups() if size), seed=seed)
    if str(dataset).startswith("synthetic:"):
        raise DataError(f"{dataset}: write synthetic:USERSxITEMSxRATINGS")
    if dataset in MD5:
        return _load_named(dataset, data_dir, progress)
    path = Path(dataset)
    if path.is_file():
        return _load_files(_list_files(path.parent), path.name, path.name, columns)
    found = _load_folder(path, os.path.basename(os.path.realpath(path)), columns)
    if not found:
        problem = "no ratings here" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {problem}; give ml-100k, ml-1m, synthetic, a CSV file or a "
                        "folder with u.data, ratings.dat, NAME.inter or ratings.csv")
    return found


def split(ratings, test, fold, seed):
    """Fold 1 to 5 of a five-fold test, as a Split. Depends on seed and (user, item) pairs only.

    "basic": a fifth of each user's ratings is the target, the rest is both train and profile.
    "realtime": a fifth of the users is new, that is, not in train; of the ratings of each, a fifth
    (at least one) is the target and the rest is the profile.
    """
    if test not in ("basic", "realtime") or fold not in range(1, 6):
        raise DataError(f"no fold {fold!r} of test {test!r}; give fold 1 to 5 of basic or realtime")
    rng = np.random.default_rng(seed)
    counts = ratings.counts                                    # (users,)
    rank = _ranks(ratings, rng)
    if test == "basic":
        # A random first fold; otherwise users with few ratings would only fill the first folds.
        first = rng.integers(5, size=len(counts))
        target = (rank + first[ratings.users]) % 5 == fold - 1
        train = ratings.where(~target)
        return Split(train, train, ratings.where(target))
    fold_of = np.full(len(counts), -1)
    rated = rng.permutation(np.flatnonzero(counts))
    fold_of[rated] = np.arange(len(rated)) % 5
    new = fold_of[ratings.users] == fold - 1
    target = rank < np.maximum(1, (counts + 2) // 5)[ratings.users]          # n / 5, rounded
    return Split(ratings.where(~new), ratings.where(new & ~target), ratings.where(new & target))


def first_ratings(ratings, n, seed):
    """At most n ratings per user, in an order fixed by seed: a larger n only adds ratings."""
    return ratings.where(_ranks(ratings, np.random.default_rng(seed)) < n)


def _ranks(ratings, rng):
    """Rank (n,) of each rating, from 0, in a random order of its user's ratings."""
    order = np.lexsort((rng.permutation(len(ratings)), ratings.users))       # shuffled per user
    rank = np.empty(len(ratings), np.int64)
    rank[order] = np.arange(len(ratings)) - ratings.starts[ratings.users]
    return rank


def synthetic(n_users=943, n_items=1682, n_ratings=100_000, seed=0):
    """Made-up Dataset of n_ratings ratings from 1 to 5: five planted factors, biases and noise.

    Factors and biases depend half on E and F, so these help to predict. A few users and items have
    most of the ratings. Memory grows with n_ratings, not with users x items. Raises DataError.
    """
    if not 0 < n_ratings <= n_users * n_items:
        raise DataError(f"{n_ratings} ratings of {n_users} users and {n_items} items; "
                        "give between 1 and users x items")
    rng = np.random.default_rng(seed)
    ages = rng.normal(33, 12, n_users).clip(10, 75).round()
    genders = rng.choice(["F", "M"], n_users)
    E, E_names = _user_columns(
        ages, {"gender": genders, "occupation": rng.choice(OCCUPATIONS, n_users)})
    years = (1999 - rng.exponential(12, n_items)).clip(1920).astype(np.int32)
    titles = [f"Item {i} ({year})" for i, year in enumerate(years, 1)]
    genres = ["|".join(dict.fromkeys(pair)) for pair in rng.choice(GENRES[1:], (n_items, 2))]
    F, F_names = _item_columns(genres, years)
    users, items = np.divmod(_draw_pairs(n_users, n_items, n_ratings, rng), n_items)
    P = _draw_taste(E, rng)                                    # (users, 6): bias, five factors
    Q = _draw_taste(F, rng)                                    # (items, 6)
    values = 3.55 + 0.45 * (P[users, 0] + Q[items, 0]) + rng.normal(0, 0.6, n_ratings)
    values += sum(0.3 * P[users, k] * Q[items, k] for k in range(1, 6))
    ratings = Ratings(users, items, values.round().clip(1, 5), (n_users, n_items))
    return Dataset("synthetic", ratings, np.arange(1, n_users + 1).astype(str),
                   np.arange(1, n_items + 1).astype(str), E, E_names, F, F_names,
                   titles, genres, years)


def _draw_pairs(n_users, n_items, n, rng):
    """n distinct cells user * n_items + item, sorted; some users and items are more popular."""
    weights = [rng.normal(0, 0.9, n_users), rng.normal(0, 1.4, n_items)]
    cells = np.empty(0, np.int64)
    flat = 0
    while len(cells) < n:
        flat += 1                              # flatter weights each round: rare cells are slow
        p_user, p_item = (np.exp(w / flat) / np.exp(w / flat).sum() for w in weights)
        drawn = rng.choice(n_users, n, p=p_user) * n_items + rng.choice(n_items, n, p=p_item)
        new = np.setdiff1d(drawn, cells)
        cells = np.append(cells, rng.permutation(new)[:n - len(cells)])
    return np.sort(cells)


def _draw_taste(X, rng):
    """(n, 6), standard normal; half of the variance comes from the columns of X (n, C)."""
    told = X.astype(np.float64) @ rng.normal(size=(X.shape[1], 6))  # (n, C), (C, 6) -> (n, 6)
    told = (told - told.mean(0)) / (told.std(0) + 1e-9)
    return (told + rng.normal(size=told.shape)) / np.sqrt(2)

def to_dataset(name, ratings, users=None, items=None):
    """Dataset from DataFrames, which are not changed.

    ratings: columns user, item, rating. users: column user; age becomes brackets in E and any
    other column one-hot columns "column=value". items: column item, perhaps title, genres ("A|B")
    and year, which may also be in the title, "(1995)"; F has genres and decades. NaN, None and ""
    mean unknown. Users missing from `users` get the mean row of E; items missing from `items` get
    zeros. Integer ids stay integers, others become text. Raises DataError about the first mistake.
    """
    pd = _pandas()
    _check_columns(_place(ratings, "ratings"), RATED, ratings, ratings)
    if len(ratings) == 0:
        raise DataError(f"{_place(ratings, 'ratings')}: no ratings")
    user_ids, rows, user_at = _match_ids("user", ratings, users)
    item_ids, columns, item_at = _match_ids("item", ratings, items)
    values = pd.to_numeric(ratings["rating"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    _check_rows(ratings, "ratings", np.isnan(values), "rating {rating!r} is not a number")
    _check_rows(ratings, "ratings", np.abs(values) >= 1e10,
                "rating {rating!r} is not between -1e10 and 1e10")
    twice = pd.Series(rows * len(item_ids) + columns).duplicated()
    _check_rows(ratings, "ratings", twice, "user {user!r} rates item {item!r} twice")

    E, E_names = _user_side(users, user_at, len(user_ids))
    titles, genres, dates = (_texts(items, column, item_at, len(item_ids))
                             for column in ("title", "genres", "year"))
    titles, years = _titles_and_years(titles, dates)
    titles = [title or str(one) for title, one in zip(titles, item_ids)]
    F, F_names = _item_columns(genres, years)
    ratings = Ratings(rows, columns, values, (len(user_ids), len(item_ids)))
    return Dataset(name, ratings, user_ids, item_ids, E, E_names, F, F_names, titles, genres, years)


def _match_ids(kind, ratings, listed):
    """Ids of all users or items, sorted, and the index of each rating's and each listed row's id.

    kind: "user" or "item"; listed: the table users or items, or None.
    """
    codes, rated = _distinct_ids(kind, ratings, "ratings")
    listed_codes, others = codes[:0], []
    if listed is not None:
        table = f"{kind}s"
        _check_columns(_place(listed, table), [kind], listed, listed)
        listed_codes, others = _distinct_ids(kind, listed, table)
        if not set(rated).intersection(others):
            raise DataError(f"{_place(listed, table)}: none of the rated {kind}s, such as "
                            f"{rated[0]!r}, is among {others[:3]}; do the types of ids differ?")
    ids = set(rated).union(others)
    numeric = all(type(one) is int or re.fullmatch("-?[0-9]{1,18}", one) for one in ids)
    ids = sorted(ids, key=(lambda one: (int(one), one)) if numeric else None)
    index = {one: n for n, one in enumerate(ids)}
    at = np.array([index[one] for one in others], np.int64)[listed_codes]
    if listed is not None:
        _check_rows(listed, table, _pandas().Series(at).duplicated(),
                    f"{kind} {{{kind}!r}} is listed twice")
    return np.array(ids), np.array([index[one] for one in rated])[codes], at


def _distinct_ids(kind, frame, table):
    """(n,) codes and the list of ids, all integers or all text, that they index."""
    codes, ids = _pandas().factorize(frame[kind])
    ids = ids.tolist()
    empty = np.array([one == "" for one in ids] + [True])      # the last is for code -1, missing
    _check_rows(frame, table, empty[codes], f"{kind} id is empty")
    return codes, ids if all(type(one) is int for one in ids) else [str(one) for one in ids]


def _place(frame, table, row=None):
    """The name of a table or row in messages: file and line if a reader set attrs."""
    name = frame.attrs.get("file", table)
    if row is None:
        return name
    return f"{name}, {'line' if 'file' in frame.attrs else 'row'} {frame.index[row]}"


def _check_rows(frame, table, bad, problem):
    """Raise DataError about the first row where bad (n,); problem: a template over the columns."""
    for row in np.flatnonzero(bad)[:1]:
        fields = frame.iloc[[row]].to_dict("records")[0]
        raise DataError(f"{_place(frame, table, row)}: {problem.format_map(fields)}")


def _check_columns(where, needed, found, names):
    """Raise DataError unless found has all that is needed; names: what the columns are called."""
    missing = [column for column in needed if column not in found]
    if missing:
        advice = "use --columns (in Python columns=)" if "rating" in needed else "rename it"
        raise DataError(f"{where}: no column {' or '.join(missing)} among "
                        f"{', '.join(map(str, names))}; {advice}")


def _texts(frame, column, at, n):
    """A column as a list of n texts, that of row i at index at[i]; "" where unknown."""
    texts = [""] * n
    if frame is not None and column in frame:
        for index, value, known in zip(at, frame[column].tolist(), frame[column].notna()):
            texts[index] = str(value) if known else ""
    return texts


def _user_side(users, at, n):
    """E (n, columns) and its names from the table users, of which row i is user at[i]."""
    if users is None:
        return np.zeros((n, 0), np.float32), []
    kinds = [column for column in users if column not in ("user", "age")]
    ages = _pandas().to_numeric(_texts(users, "age", at, n), errors="coerce")
    E, names = _user_columns(ages, {kind: _texts(users, kind, at, n) for kind in kinds})
    E[np.setdiff1d(np.arange(n), at)] = E[at].mean(0)
    return E, names


def _user_columns(ages, categories):
    """E of Section 4.1 and its names: brackets of ages (n,), NaN if unknown; {column: n texts}."""
    parts = [(np.zeros((len(ages), 0), np.float32), [])]
    if not np.isnan(ages).all():                               # all brackets, used or not
        brackets = np.array(AGES)[np.searchsorted(AGES[1:], ages, side="right")].astype(str)
        parts += [_one_hot("age", np.where(np.isnan(ages), "", brackets)[:, None], AGES)]
    parts += [_one_hot(kind, [[text] for text in texts]) for kind, texts in categories.items()]
    return np.hstack([X for X, _ in parts]), [name for _, names in parts for name in names]


def _item_columns(genres, years):
    """F and its names: genres, perhaps several per item, joined by "|", and decades."""
    G, genre_names = _one_hot("genre", [text.split("|") for text in genres])
    D, decade_names = _one_hot("decade", [[f"{year // 10 * 10}" if year else ""] for year in years])
    return np.hstack([G, D]), genre_names + decade_names


def _one_hot(column, rows, values=None):
    """(n, values) float32 zeros and ones, and names; rows: n lists of texts, "" for none."""
    values = values or sorted(set().union(*rows) - {""})
    if len(values) > MOST_VALUES:
        raise DataError(f"column {column} has more than {MOST_VALUES} values; leave it out")
    index = {str(value): n for n, value in enumerate(values)}
    X = np.zeros((len(rows), len(values)), np.float32)
    for x, texts in zip(X, rows):
        x[[index[text] for text in texts if text]] = 1
    return X, [f"{column}={value}" for value in values]


def _titles_and_years(titles, dates):
    """Titles as GroupLens writes them, "Heat (1995)", and years (n,) by date or else by title."""
    years = np.zeros(len(titles), np.int32)
    shown = list(titles)
    for n, (title, date) in enumerate(zip(titles, dates)):
        found = re.findall("[0-9]{4}", date) or re.findall(r"\(([0-9]{4})\)", title)
        years[n] = found[-1] if found else 0
        if title and years[n] and not re.search(r"\([0-9]{4}\)", title):
            shown[n] = f"{title} ({years[n]})"
    return shown, years


class _File(NamedTuple):
    path: object     # a Path, or "-"
    data: bytes      # UTF-8, lines end in "\n"
    sep: str
    quoting: int     # of csv and pandas
    fields: list     # our names of the columns, "" for one that is not used
    start: int = 0   # lines above the first record


def read_ratings(path, columns=None):
    """DataFrame user, item (text), rating (float64) of a CSV file; "-" is standard input.

    columns: as in load. Raises DataError.
    """
    file = _open(Path(path), ",", None, RATED, columns)
    table = _read_ratings(file)
    to_dataset("", table)                                      # for its checks
    return table


def csv_records(path):
    """(line number, fields) of each line of a CSV file that is not blank; "-" is standard input."""
    data = _read_utf8(Path(path), latin=False)
    return _records(_File(path, data, ",", csv.QUOTE_MINIMAL, []))


def _list_files(folder):
    """{name: path} of a folder, a Path or a zipfile.Path; empty if there is no such folder."""
    try:
        return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def _load_folder(folder, name, columns=None):
    """Dataset of the first format whose ratings are in a folder; None if there are none."""
    files = _list_files(folder)
    inter = sorted(file for file in files if file.endswith(".inter"))
    if len(inter) > 1:
        raise DataError(f"{folder}: {inter[0]} and {inter[1]}; keep one data set per folder")
    for ratings in ("u.data", "ratings.dat", *inter, "ratings.csv"):
        if ratings in files:
            return _load_files(files, ratings, name, columns)
    return None


def _load_files(files, ratings, name, columns):
    """Dataset of the file called ratings and those that belong to it; files: {name: path}."""
    stem = ratings[:-len(".inter")]
    if ratings in LAYOUTS:
        parts = LAYOUTS[ratings]
    elif ratings.endswith(".inter"):
        parts = [(ratings, "\t", None), (f"{stem}.user", "\t", None), (f"{stem}.item", "\t", None)]
    else:
        parts = [(ratings, ",", None), ("", ",", None), ("movies.csv", ",", None)]
    tables = [None, None, None]
    readers = [_read_ratings, _read_side, _read_side]
    wanted = [RATED, PROFILE, ABOUT]
    for n, (file, sep, fields) in enumerate(parts):
        if file in files:
            tables[n] = readers[n](_open(files[file], sep, fields, wanted[n], columns))
        elif fields:
            raise DataError(f"{files[ratings]} is here but {file} is missing; add it")
    return to_dataset(name, *tables)


def _open(path, sep, fields, wanted, columns=None):
    """The _File at a path. fields: names of its columns, or None: its first line has them."""
    data = _read_utf8(path, latin=fields is not None)
    if sep == "::":                                            # pandas is fast with one character
        data = data.replace(b"::", b"\t")
        sep = "\t"
    quoting = csv.QUOTE_MINIMAL if sep == "," else csv.QUOTE_NONE
    file = _File(path, data, sep, quoting, fields or [])
    if fields is None:
        line, header = next(_records(file), (1, None))
        if not header:
            raise DataError(f"{path}: the file is empty; its first line must name the columns")
        names = [name.strip() for name in header]
        fields = _match_header(f"{path}, line {line}", names, wanted, columns or {})
        file = file._replace(fields=fields, start=line)
    return file


def _read_utf8(path, latin):
    """Bytes of a file, in UTF-8, every line ending in a newline. latin: it may be Latin-1."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    data = data.rstrip(b"\n") + b"\n"
    if b"\0" in data:
        raise DataError(f"{path}: not a text file: it has a zero byte; save it as UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if not latin:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error
        data = data.decode("latin-1").encode()
    return data


def _match_header(where, header, wanted, columns):
    """Our name for each column of a header: userId or user_id:token -> user; "" if not wanted."""
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise DataError(f"{where}: no commas in {header[0][:100]!r}; "
                        "save it with commas between fields")
    if wanted is RATED:
        _check_columns(where, columns, header, header)
    fields = [""] * len(header)
    for name in sorted(header, key=lambda name: name not in columns):        # given columns first
        plain = re.sub("[_ ]", "", name.lower()).partition(":")[0]
        field = columns.get(name, ALIASES.get(plain, plain))
        if field in wanted and field not in fields:
            fields[header.index(name)] = field
    _check_columns(where, wanted if wanted is RATED else wanted[:1], fields, header)
    return fields


def _records(file):
    """Yield (line number, fields) of each line that is not blank; slow. Raises DataError."""
    lines = io.TextIOWrapper(io.BytesIO(file.data), "utf-8", newline="\n")
    reader = csv.reader(lines, delimiter=file.sep, quoting=file.quoting, strict=True)
    line = 1
    try:
        for fields in reader:
            blank = not fields or len(fields) == 1 and fields[0] and not fields[0].strip(" \t")
            if line > file.start and not blank:
                if len(fields) != len(file.fields or fields):
                    raise csv.Error(f"{len(fields)} fields where {len(file.fields)} are expected")
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file.path}, line {line}: {error}") from error


def _read_table(file, dtype=object):
    """DataFrame of the named columns, as text by default; attrs: its file, index: line numbers.

    Fast, except that a file with quotes, blank lines or wrong lines is first checked line by line.
    """
    pd = _pandas()
    separator = file.sep.encode()
    # With all but separators, quotes and newlines removed, ordinary lines are all equal.
    marks = file.data.translate(None, bytes(set(range(256)) - set(separator + b'"\n')))
    lines = None
    if marks.replace(separator * (len(file.fields) - 1) + b"\n", b""):
        lines = np.fromiter((line for line, _ in _records(file)), np.int64)
    table = pd.read_csv(io.BytesIO(file.data), sep=file.sep, header=None, skiprows=file.start,
                        names=[field or n for n, field in enumerate(file.fields)],
                        usecols=[field for field in file.fields if field], dtype=dtype,
                        na_filter=False, quoting=file.quoting, encoding="utf-8")
    blanks = (b" " + separator, separator + b" ", b"\n ")
    if any(blank in file.data for blank in blanks):            # " 1, 50 ,4" has the ids 1 and 50
        for column in {"user", "item"}.intersection(table):
            table[column] = [text.strip(" ") for text in table[column]]
    if lines is not None and len(lines) != len(table):
        raise DataError(f"{file.path}: a line contains only quoted blanks; remove it")
    table.index = np.arange(len(table)) + file.start + 1 if lines is None else lines
    table.attrs["file"] = str(file.path)
    return table


def _read_ratings(file):
    """DataFrame user, item (text), rating (float64, or text if some are not numbers)."""
    try:
        return _read_table(file, {"user": object, "item": object, "rating": np.float64})
    except ValueError:
        return _read_table(file)                               # to_dataset tells which is wrong


def _read_side(file):
    """DataFrame of users or items, all text, with the codes of GroupLens and RecBole resolved."""
    table = _read_table(file)
    if file.path.name == "users.dat":
        names = {str(code): name for code, name in enumerate(OCCUPATIONS)}
        table["occupation"] = [names.get(code, code) for code in table["occupation"]]
    if file.path.name == "u.item":
        flags = table[GENRES].to_numpy() == "1"                # (items, 19)
        table["genres"] = ["|".join(np.array(GENRES)[row]) for row in flags]
    if file.path.name.endswith(".item") and "genres" in table and file.start:
        table["genres"] = [text.replace(" ", "|") for text in table["genres"]]
    return table


def _pandas():
    try:
        import pandas
    except ImportError as error:
        raise DataError("pandas is missing; pip install -r requirements.txt") from error
    return pandas


def _load_named(name, data_dir, progress):
    """Dataset of data_dir/NAME/ or data_dir/NAME.zip, fetched if neither is there."""
    if data_dir is None:
        raise DataError(f"{name}: data_dir is missing; give the folder that holds it, or use "
                        "synthetic")
    folder = Path(data_dir, name)
    archive = folder.with_name(f"{name}.zip")
    found = _load_folder(folder, name)
    if not found and not archive.is_file():
        _fetch(name, folder, archive, progress)
        found = _load_folder(folder, name)
    found = found or _load_folder(_open_archive(archive, f"{name}/"), name)
    if not found:
        raise DataError(f"{archive}: no ratings below {name}/; delete it and load again")
    return found


def _open_archive(path, folder):
    """A folder of a zip archive as a zipfile.Path, to be used like a Path."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > SIZE_LIMIT:
                raise ValueError(f"larger than {SIZE_LIMIT >> 20} MB")
            if archive.testzip():
                raise ValueError("damaged")
    except Exception as error:                                 # zipfile and zlib have many kinds
        raise DataError(f"{path}: {error}; delete it and load again") from error
    return zipfile.Path(path, folder)


def _fetch(name, folder, archive, progress):
    """Write NAME.zip or, for ml-100k if that cannot be had, the files of WHEEL in folder."""
    url = f"{URL}{name}.zip"
    if progress:
        print(f"{name} is not in {folder.parent}: fetching it from {url}", file=sys.stderr)
    sources = {url: lambda: {archive: _download(url, MD5[name])}}
    if name == "ml-100k":
        sources[f"pip download {WHEEL}"] = lambda: _download_wheel(folder)
    tried = [str(folder), str(archive)]
    for source, get in sources.items():
        try:
            files = get()
            break
        except (OSError, ValueError, LookupError, subprocess.SubprocessError,
                http.client.HTTPException) as error:
            tried.append(f"{source} ({error})")
    else:
        raise DataError(f"cannot get {name}: tried {', '.join(tried)}; put {name}.zip from "
                        f"grouplens.org/datasets/movielens in {folder.parent}, "
                        "or use --dataset synthetic")
    for path, data in files.items():
        os.makedirs(path.parent, exist_ok=True)
        write_whole(path, lambda file, data=data: file.write(data))


def _download(url, md5):
    """The bytes at url, at most SIZE_LIMIT of them."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        if not answer.url.startswith("https://"):
            raise OSError(f"redirected to {answer.url}, which is not https")
        data = answer.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise OSError(f"larger than {SIZE_LIMIT >> 20} MB")
    _check_md5(data, md5)
    return data


def _check_md5(data, expected):
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"MD5 {found} instead of {expected}")


def _download_wheel(folder):
    """{path in folder: bytes} of ML-100k from a package that pip downloads; the ratings last."""
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest",
                              scratch, WHEEL], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=600)
        wheels = list(Path(scratch).glob("*.whl"))
        if not wheels:
            raise OSError((run.stderr.strip().splitlines() or ["no wheel"])[-1])
        example = _open_archive(wheels[0], "recbole/dataset_example/ml-100k/")
        names = ["ml-100k.user", "ml-100k.item", "ml-100k.inter"]
        files = {folder / name: (example / name).read_bytes() for name in names}
    _check_md5(files[folder / names[-1]].partition(b"\n")[2], WHEEL_MD5)
    return files


def write_whole(path, write):
    """Write a file beside path, then rename it: readers see the old file or the new one, whole.

    write: text, or a function that writes to a binary file. Raises DataError if that fails.
    """
    real = os.path.realpath(path)
    part = f"{real}.{os.urandom(4).hex()}.part"
    try:
        with open(part, "wb") as file:
            file.write(write.encode()) if isinstance(write, str) else write(file)
        os.replace(part, real)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; choose another file") from error
    finally:
        if os.path.exists(part):
            os.remove(part)


def output_path(path, *inputs):
    """The real path of an output file, checked before any work is done. Raises DataError.

    inputs: files and folders that are read: none of them, nor data in them, may be overwritten.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    inputs = [os.path.realpath(one) for one in inputs]
    is_data = folder in inputs and re.search(r"\.(data|user|item|dat|inter|csv)$", real)
    if real in inputs or is_data:
        raise DataError(f"{path}: would overwrite an input; choose another file")
    if path in ("", "-") or os.path.exists(real) and not os.path.isfile(real) or (
            not os.access(folder, os.W_OK)):
        raise DataError(f"{path}: cannot be written; choose another file in a folder that exists")
    return real
