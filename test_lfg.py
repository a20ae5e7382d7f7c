"""Loaders, folds, fetching and the synthetic data. No network."""

import hashlib
import io
import os
import subprocess
import urllib.error
import urllib.request
import zipfile
from email import message_from_string
from pathlib import Path
from urllib.response import addinfourl

import numpy as np
import pytest

import data
from data import DataError, load, split, synthetic
from svd import Ratings

FLAGS = {g: i for i, g in enumerate(data.GENRES)}


def item_line(i, title, date, *genres):
    return f"{i}|{title}|{date}||url|" + "|".join(str(int(g in genres)) for g in FLAGS) + "\n"


ML_100K = {
    "u.data": "2\t10\t3\t881\n1\t9\t5\t882\n10\t9\t1\t883\n",
    "u.user": "1|17|M|artist|00000\n2|35|F|doctor|T8H1N\n10|56|M|artist|0\n3|24|F|none|0\n",
    "u.item": item_line(9, "Été, L' (1987)", "01-Jan-1988", "Drama", "War") +
    item_line(10, "Babe (1995)", "", "Comedy") + item_line(11, "unknown", "", "unknown")}
AGE_HEADER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
ATOMIC = {
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
               "2\t10\t3\t881\n1\t9\t5\t882\n10\t9\t1\t883\n",
    "x.user": AGE_HEADER +
              "1\t17\tM\tartist\t0\n2\t35\tF\tdoctor\tT8\n10\t56\tM\tartist\t0\n3\t24\tF\tnone\t0\n",
    "x.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
              "9\tÉté\t1988\tDrama War\n10\tBabe\t1995\tComedy\n11\tunknown\tunkonwn\tunknown\n"}
ML_1M = {
    "ratings.dat": "1::7::5::0\n2::7::3::0\n2::8::1::0\n",
    "users.dat": "".join(f"{n}::{'FM'[n % 2]}::{age}::{n}::48067\n"
                         for n, age in enumerate(data.AGES, 1)),
    "movies.dat": "7::Star Wars: Épisode IV (1977)::Action|Sci-Fi\n8::Heat (1995)::Crime\n"}
CSV = {"ratings.csv": "userId,movieId,rating,timestamp\n2,10,3.5,1\n1,9,.5,2\n",
       "movies.csv": 'movieId,title,genres\n9,"Été, ""L\' (1988)",Drama|War\n10,Babe,Comedy\n'}
LATIN = ("u.", "ratings.dat", "users.dat", "movies.dat")


def encoded(name, text):
    return text if isinstance(text, bytes) else text.encode("latin-1" if name.startswith(LATIN) else "utf-8")


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(encoded(name, text))
    return folder


def write_zip(path, top, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{top}/{name}", encoded(name, text))
    return path


def fail(*arguments, **options):
    with pytest.raises(DataError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def columns(matrix, names):
    return {name: matrix[:, i].tolist() for i, name in enumerate(names) if matrix[:, i].any()}


# Loaders


@pytest.mark.parametrize("kind", ["folder", "named", "zip", "atomic", "crlf and bom", "blank lines"])
def test_ml_100k_in_each_form(tmp_path, kind):
    if kind == "zip":
        write_zip(tmp_path / "ml-100k.zip", "ml-100k", dict(ML_100K, README="unread"))
        d = load("ml-100k", tmp_path)
    elif kind == "named":
        write(tmp_path / "ml-100k", ML_100K)
        d = load("ml-100k", str(tmp_path))
    else:
        change = {"folder": str, "atomic": str, "blank lines": lambda s: "\n" + s.replace("\n", "\r \n\r\n"),
                  "crlf and bom": lambda s: "\xef\xbb\xbf" + s.replace("\n", "\r\n").rstrip()}[kind]
        files = ATOMIC if kind in ("atomic", "blank lines") else ML_100K
        d = load(str(write(tmp_path / "any", {name: change(text) for name, text in files.items()})))
    assert d.name == ("ml-100k" if kind in ("zip", "named") else "any")
    assert d.user_ids.tolist() == ["1", "2", "3", "10"] and d.item_ids.tolist() == ["9", "10", "11"]
    R = d.ratings
    assert R.shape == (4, 3) and R.values.dtype == np.float32
    assert list(zip(R.users, R.items, R.values)) == [(0, 0, 5), (1, 1, 3), (3, 0, 1)]
    assert d.E.dtype == d.F.dtype == np.float32
    assert d.E_names == [f"age={a}" for a in (1, 18, 25, 35, 45, 50, 56)] + [
        "gender=F", "gender=M", "occupation=artist", "occupation=doctor", "occupation=none"]
    assert columns(d.E, d.E_names) == {                     # users 1, 2, 3, 10 are 17, 35, 24, 56
        "age=1": [1, 0, 0, 0], "age=35": [0, 1, 0, 0], "age=18": [0, 0, 1, 0], "age=56": [0, 0, 0, 1],
        "gender=F": [0, 1, 1, 0], "gender=M": [1, 0, 0, 1], "occupation=artist": [1, 0, 0, 1],
        "occupation=doctor": [0, 1, 0, 0], "occupation=none": [0, 0, 1, 0]}
    assert columns(d.F, d.F_names) == {
        "genre=Drama": [1, 0, 0], "genre=War": [1, 0, 0], "genre=Comedy": [0, 1, 0],
        "genre=unknown": [0, 0, 1], "decade=1980": [1, 0, 0], "decade=1990": [0, 1, 0]}
    assert d.titles[0].startswith("Été") and d.titles[2] == "unknown"


def test_ml_1m(tmp_path):
    d = load("ml-1m", write(tmp_path / "ml-1m", ML_1M).parent)
    assert d.E_names[:9] == [f"age={a}" for a in data.AGES] + ["gender=F", "gender=M"]
    assert np.array_equal(d.E[:, :7], np.eye(7)) and d.E[:, 8].tolist() == [1, 0, 1, 0, 1, 0, 1]
    first = [name for name, e in zip(d.E_names, d.E[0]) if e]
    assert first == ["age=1", "gender=M", "occupation=academic/educator"]
    assert d.titles == ["Star Wars: Épisode IV (1977)", "Heat (1995)"]
    assert columns(d.F, d.F_names) == {"genre=Action": [1, 0], "genre=Sci-Fi": [1, 0], "genre=Crime": [0, 1],
                                       "decade=1970": [1, 0], "decade=1990": [0, 1]}


@pytest.mark.parametrize("age,bracket", [(0, 1), (17, 1), (18, 18), (24, 18), (25, 25), (34, 25), (35, 35),
                                         (44, 35), (45, 45), (49, 45), (50, 50), (55, 50), (56, 56)])
def test_age_brackets(tmp_path, age, bracket):
    d = load(write(tmp_path, dict(ML_100K, **{"u.user": ML_100K["u.user"].replace("|17|", f"|{age}|")})))
    assert d.E[0, :7].tolist() == [float(a == bracket) for a in data.AGES]


def test_csv_with_and_without_movies(tmp_path):
    d = load(write(tmp_path / "a", CSV))
    assert d.ratings.values.tolist() == [0.5, 3.5] and d.E.shape == (2, 0) and d.E_names == []
    assert d.titles == ['Été, "L\' (1988)', "Babe"]
    assert columns(d.F, d.F_names) == {"genre=Drama": [1, 0], "genre=War": [1, 0], "genre=Comedy": [0, 1],
                                       "decade=1980": [1, 0]}
    text = 'rating,Item_ID,"USER"\n1,NA,u\n\n2,"a,\nb",u\n'    # any order, text ids, a quoted newline
    path = write(tmp_path / "b", {"mine.csv": text}) / "mine.csv"
    d = load(path)
    assert d.name == "mine" and d.item_ids.tolist() == ["NA", "a,\nb"] == d.titles and d.F.shape == (2, 0)
    assert d.ratings.items.tolist() == [0, 1] and d.ratings.values.tolist() == [1, 2]


def test_atomic_without_side_files_or_ages(tmp_path):
    d = load(write(tmp_path / "a", {"x.inter": ATOMIC["x.inter"]}))
    assert d.E.shape == (3, 0) and d.F.shape == (2, 0) and d.titles == ["9", "10"]
    d = load(write(tmp_path / "b", dict(ATOMIC, **{"x.user": ATOMIC["x.user"].replace("17", "young"),
                                                   "x.item": "item_id:token\n9\n10\n"})))
    assert d.E[0].sum() == 2                                # a token may be text: no age, but the rest
    assert d.F.shape == (2, 0) and d.titles == ["9", "10"]


ERRORS = [                                                  # format, file, old, new, what the message says
    (ML_100K, "u.data", "\t882\n", "\n", "u.data, line 2: 3 fields where 4"),
    (ML_100K, "u.data", "\t882\n", "\t882\t0\n", "u.data, line 2: 5 fields where 4"),
    (ML_100K, "u.data", "\t5\t", "\tgood\t", "u.data, line 2: rating 'good' is not a finite number"),
    (ML_100K, "u.data", "\t5\t", "\tnan\t", "u.data, line 2: rating 'nan' is not"),
    (ML_100K, "u.data", "\t5\t", "\t1e39\t", "u.data, line 2: rating '1e39' is not"),
    (ML_100K, "u.data", "2\t10", "\n\n\t10", "u.data, line 3: empty user id"),
    (ML_100K, "u.data", "1\t9", "4\t9", "u.data, line 2: user '4' is not in"),
    (ML_100K, "u.data", "1\t9", "1\t99", "u.data, line 2: item '99' is not in"),
    (ML_100K, "u.data", "10\t9", "1\t9", "u.data, line 3: user '1' rates item '9' twice, first in line 2"),
    (ML_100K, "u.data", "10\t9", "1\0\t9", "u.data, line 3: a NUL byte"),
    (ML_100K, "u.data", ML_100K["u.data"], " \n", "u.data: no ratings"),
    (ML_100K, "u.user", "3|24", "1|24", "u.user, line 4: user '1' is listed twice, first in line 1"),
    (ML_100K, "u.user", "|24|", "|old|", "u.user, line 4: age 'old' is not"),
    (ML_100K, "u.user", "|none", "", "u.user, line 4: 4 fields where 5"),
    (ML_100K, "u.item", "11|", "9|", "u.item, line 3: item '9' is listed twice, first in line 1"),
    (ML_100K, "u.item", "11|", "|", "u.item, line 3: empty item id"),
    (ML_1M, "ratings.dat", "2::8", "2::9", "ratings.dat, line 3: item '9' is not in"),
    (ML_1M, "users.dat", "::18::", "::x::", "users.dat, line 2: age 'x' is not"),
    (ATOMIC, "x.inter", "10\t9", "10", "x.inter, line 4: 3 fields where 4"),
    (ATOMIC, "x.inter", "rating:", "stars:", "x.inter, line 1: the first line must name rating once"),
    (ATOMIC, "x.inter", "1\t9", "4\t9", "x.inter, line 3: user '4' is not in"),
    (ATOMIC, "x.inter", "2\t10", b"2\t\xff", "x.inter, line 2: not utf-8 text"),
    (ATOMIC, "x.inter", ATOMIC["x.inter"], "", "x.inter, line 1: the first line must name item once"),
    (ATOMIC, "x.user", "age:token", "age:float\tn:token", "x.user, line 2: 5 fields where 6"),
    (ATOMIC, "x.user", AGE_HEADER + "1\t17", AGE_HEADER.replace("age:token", "age:float") + "1\told",
     "x.user, line 2: age 'old' is not"),
    (ATOMIC, "x.item", "9\t", "10\t", "x.item, line 3: item '10' is listed twice, first in line 2"),
    (CSV, "ratings.csv", "1,9", "2,10", "ratings.csv, line 3: user '2' rates item '10' twice, first"),
    (CSV, "ratings.csv", "2,10", "2", "ratings.csv, line 2: 3 fields where 4"),
    (CSV, "ratings.csv", "1,9", '\n"1",9,0', "ratings.csv, line 4: 5 fields where 4"),
    (CSV, "ratings.csv", "1,9", '1,"9', "ratings.csv, line 3: a quote that is not"),
    (CSV, "movies.csv", "Babe", 'Babe "a,b" c', "movies.csv, line 3: a quote that is not closed or not at"),
    (CSV, "ratings.csv", "timestamp", "user", "ratings.csv, line 1: the first line must name user once"),
    (CSV, "movies.csv", "10,Babe", "9,Babe", "movies.csv, line 3: item '9' is listed twice, first in line 2"),
]


@pytest.mark.parametrize("files,name,old,new,message", ERRORS, ids=[e[-1][:60] for e in ERRORS])
def test_errors_name_file_and_line(tmp_path, files, name, old, new, message):
    raw, old, new = (encoded(name, text) for text in (files[name], old, new))
    assert old in raw
    assert f"{os.sep}{message}" in fail(write(tmp_path, dict(files, **{name: raw.replace(old, new, 1)})))


def test_errors_of_places(tmp_path):
    assert "nowhere: no ratings here" in fail(tmp_path / "nowhere")
    assert "needs a data directory" in fail("ml-100k")
    assert "u.data is here but u.user is missing" in fail(write(tmp_path / "a", {"u.data": "1\t1\t1\t1\n"}))
    both = dict(ATOMIC, **{"y.inter": ATOMIC["x.inter"]})
    assert "keep one data set" in fail(write(tmp_path / "b", both))


# Folds


@pytest.fixture(scope="module")
def R():
    return synthetic(60, 80, 900, seed=1).ratings


def pairs(ratings):
    return set(zip(ratings.users.tolist(), ratings.items.tolist(), ratings.values.tolist()))


def test_basic_folds(R):
    folds = [split(R, "basic", fold, seed=3) for fold in range(1, 6)]
    assert sum(len(f.target) for f in folds) == len(R)
    assert set().union(*(pairs(f.target) for f in folds)) == pairs(R)
    counts = np.array([np.bincount(f.target.users, minlength=60) for f in folds])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert counts.sum(1).min() > 0.8 * len(R) / 5           # also over the users of few ratings
    for train, profile, target in folds:
        assert profile is train and pairs(train) == pairs(R) - pairs(target) and train.shape == R.shape


def test_realtime_folds(R):
    folds = [split(R, "realtime", fold, seed=3) for fold in range(1, 6)]
    new = [set(f.target.users.tolist()) for f in folds]
    assert sum(map(len, new)) == 60 and set().union(*new) == set(R.users.tolist())
    assert {len(users) for users in new} == {12}
    counts = np.diff(R.starts)
    for (train, profile, target), users in zip(folds, new):
        assert not users & set(train.users.tolist()) and set(profile.users.tolist()) <= users
        assert pairs(train) | pairs(profile) | pairs(target) == pairs(R)
        assert len(train) + len(profile) + len(target) == len(R)
        got = np.bincount(target.users, minlength=60)
        assert all(got[u] == max(1, round(counts[u] / 5)) for u in users)


@pytest.mark.parametrize("test", ["basic", "realtime"])
def test_folds_depend_on_seed_and_pairs_only(R, test):
    order = np.random.default_rng(0).permutation(len(R))
    other = Ratings(R.users[order], R.items[order], R.values[order] % 5 + 1, R.shape)
    a, b, c = split(R, test, 2, 7), split(other, test, 2, 7), split(R, test, 2, 8)
    for x, y in zip(a, b):
        assert np.array_equal(x.users, y.users) and np.array_equal(x.items, y.items)
    assert pairs(a.target) != pairs(c.target)
    inner = split(a.train, test, 1, 7)                      # validation is cut out of train
    assert pairs(inner.train) | pairs(inner.profile) | pairs(inner.target) == pairs(a.train)
    assert len(inner.target) > 0 and not pairs(inner.target) & pairs(a.target)


def test_folds_of_few_ratings_and_a_bad_fold():
    R = Ratings(np.arange(0, 400, 2), np.zeros(200), np.ones(200), (400, 1))     # every other user has one
    for fold in range(1, 6):
        train, profile, target = split(R, "realtime", fold, 0)
        assert (len(train), len(profile), len(target)) == (160, 0, 40)           # a single rating is a target
        assert 20 < len(split(R, "basic", fold, 0).target) < 60                  # not all in the first fold
    for test, fold in (("basic", 6), ("basic", 0), ("other", 1)):
        with pytest.raises(DataError):
            split(R, test, fold, 0)


# Fetching


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)


def fake_pip(monkeypatch, files=None, top="recbole/dataset_example/ml-100k"):
    def run(command, **_):
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"] and command[-1] == "recbole==1.2.1"
        if files is None:
            return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no such package\n")
        write_zip(Path(command[command.index("--dest") + 1], "recbole-1.2.1-py3-none-any.whl"), top, files)
        return subprocess.CompletedProcess(command, 0, "", "")
    monkeypatch.setattr(data.subprocess, "run", run)


WHEEL = {name.replace("x.", "ml-100k."): text for name, text in ATOMIC.items()}


def test_archive_is_fetched_checked_and_kept(tmp_path, monkeypatch, capsys):
    source = write_zip(tmp_path / "web" / "ml-100k.zip", "ml-100k", ML_100K)
    monkeypatch.setattr(data, "BASE_URL", source.parent.as_uri() + "/")
    message = fail("ml-100k", tmp_path / "home")
    got = hashlib.md5(source.read_bytes()).hexdigest()
    assert got in message and data.MD5["ml-100k"] in message and not (tmp_path / "home").exists()
    monkeypatch.setitem(data.MD5, "ml-100k", got)
    write(tmp_path / "home" / "ml-100k", {"notes.txt": "a folder without a known file is as if not there"})
    assert len(load("ml-100k", tmp_path / "home", progress=True).ratings) == 3
    assert sorted(os.listdir(tmp_path / "home")) == ["ml-100k", "ml-100k.zip"]
    assert "ml-100k.zip" in capsys.readouterr().err
    no_network(monkeypatch)
    assert len(load("ml-100k", tmp_path / "home").ratings) == 3
    monkeypatch.setattr(data, "MEMBER_LIMIT", 10)
    assert "larger than" in fail("ml-100k", tmp_path / "home")


@pytest.mark.parametrize("code,headers,message", [
    (200, "", "larger than"), (200, "Content-Length: 99", "ended after 3 of 99 bytes"),
    (302, "Location: http://elsewhere/", "not https"), (302, "Location: https://same/", "infinite loop")])
def test_answers_that_are_refused(tmp_path, monkeypatch, code, headers, message):
    class Web(urllib.request.BaseHandler):
        handler_order = 1                                   # before the real one

        def https_open(self, request):
            answer = addinfourl(io.BytesIO(b"abc"), message_from_string(headers), request.full_url, code)
            answer.msg = ""
            return answer
        http_open = https_open
    build = urllib.request.build_opener
    monkeypatch.setattr(data.urllib.request, "build_opener", lambda *handlers: build(Web, *handlers))
    if message == "larger than":
        monkeypatch.setattr(data, "ARCHIVE_LIMIT", 2)
    assert message in fail("ml-1m", tmp_path) and not os.listdir(tmp_path)


def test_truncated_archive(tmp_path):
    path = write_zip(tmp_path / "ml-100k.zip", "ml-100k", ML_100K)
    path.write_bytes(path.read_bytes()[:-40])
    assert "ml-100k.zip: File is not a zip file; delete it" in fail("ml-100k", tmp_path)
    write_zip(path, "other", ML_100K)
    assert "no ratings below ml-100k/" in fail("ml-100k", tmp_path)
    raw = bytearray(write_zip(path, "ml-100k", ML_100K).read_bytes())
    raw[45:60] = bytes(15)                                  # inside the first member
    path.write_bytes(raw)
    assert "delete it" in fail("ml-100k", tmp_path)
    with zipfile.ZipFile(write_zip(path, "ml-100k", ML_100K), "a") as archive, pytest.warns(UserWarning):
        archive.writestr("ml-100k/u.data", "")
    assert "twice" in fail("ml-100k", tmp_path)


def test_no_network_and_no_pip(tmp_path, monkeypatch):
    no_network(monkeypatch)
    fake_pip(monkeypatch)
    message = fail("ml-100k", tmp_path)
    for part in ("no network here", "recbole==1.2.1 (ERROR: no such package)",
                 f"from grouplens.org/datasets/movielens in {tmp_path}", "--dataset synthetic"):
        assert part in message
    assert "recbole" not in fail("ml-1m", tmp_path) and not os.listdir(tmp_path)
    fake_pip(monkeypatch, WHEEL, top="elsewhere")
    assert "There is no item" in fail("ml-100k", tmp_path)


def test_wheel_fallback(tmp_path, monkeypatch):
    no_network(monkeypatch)
    fake_pip(monkeypatch, WHEEL)
    assert data.WHEEL_MD5 in fail("ml-100k", tmp_path) and not os.listdir(tmp_path)
    body = WHEEL["ml-100k.inter"].split("\n", 1)[1].encode()
    monkeypatch.setattr(data, "WHEEL_MD5", hashlib.md5(body).hexdigest())
    theirs = write(tmp_path / "full" / "ml-100k", {"notes.txt": "mine"})
    assert "move it away" in fail("ml-100k", tmp_path / "full") and os.listdir(theirs) == ["notes.txt"]
    d = load("ml-100k", tmp_path / "new")
    assert len(d.ratings) == 3 and d.E.shape == (4, 12)
    assert os.listdir(tmp_path / "new") == ["ml-100k"]
    assert sorted(os.listdir(tmp_path / "new" / "ml-100k")) == sorted(WHEEL)


# Synthetic data


@pytest.mark.parametrize("shape", [(30, 40, 300), (5, 4, 20), (400, 300, 9000)])
def test_synthetic_shapes_and_seeds(shape):
    a, b, c = synthetic(*shape, seed=1), synthetic(*shape, seed=1), synthetic(*shape, seed=2)
    assert a.ratings.shape == shape[:2] and len(a.ratings) == len(pairs(a.ratings)) == shape[2]
    assert set(a.ratings.values.tolist()) <= {1, 2, 3, 4, 5}
    assert pairs(a.ratings) == pairs(b.ratings) != pairs(c.ratings)
    assert np.array_equal(a.E, b.E) and np.array_equal(a.F, b.F) and a.titles == b.titles
    assert a.E.shape == (shape[0], len(a.E_names)) and a.F.shape == (shape[1], len(a.F_names))
    assert (a.E.sum(1) == 3).all() and a.user_ids[-1] == str(shape[0]) and a.titles[3].startswith("Item 4 (")
    with pytest.raises(DataError):
        synthetic(3, 4, 13)


def test_synthetic_is_shaped_like_ml_100k_and_its_side_information_tells():
    d = load("synthetic", seed=5)
    R = d.ratings
    assert R.shape == (943, 1682) and len(R) == 100_000
    assert np.array_equal(R.values, synthetic(seed=5).ratings.values)
    for ids, n, side in ((R.users, 943, d.E), (R.items, 1682, d.F)):
        counts = np.bincount(ids, minlength=n)
        assert np.sort(counts)[-n // 5:].sum() > 0.4 * len(R)              # skewed; even would be 0.2
        seen = counts >= 20
        mean = (np.bincount(ids, R.values, n) / np.maximum(counts, 1))[seen]
        X = np.c_[side[seen], np.ones(seen.sum())]
        left = mean - X @ np.linalg.lstsq(X, mean, rcond=None)[0]
        assert 0.2 < 1 - left.var() / mean.var() < 0.8                     # 30 columns of chance explain 0.03


# Real data


@pytest.mark.skipif("LFG_DATA" not in os.environ, reason="LFG_DATA does not name a folder with ml-100k")
def test_real_ml_100k():
    d = load("ml-100k", os.environ["LFG_DATA"])
    assert len(d.ratings) == 100_000 and d.ratings.shape == (943, 1682)
    assert d.E.shape == (943, 30) and (d.E.sum(1) == 3).all() and d.F.shape == (1682, 27)
    assert np.bincount(d.ratings.values.astype(int)).tolist() == [0, 6110, 11370, 27145, 34174, 21201]
