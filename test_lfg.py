"""Tests in the order of the modules: nn, svd, lfg, data, experiments, serve. No network.

With LFG_DATA naming a folder that holds ml-100k, figures on real data are checked as well.
"""

import ast
import csv
import doctest
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import data
import experiments
import serve
import settings
from data import DataError, Ratings, load, official, output_path, read_ratings
from data import sample_users, split, synthetic, to_dataset, write_whole
from experiments import COLUMNS, cases_of, differences
from lfg import LFG, CellsLFG, LFGDual, LFGItem, LFGRank, LFGRankItem, PaperLFG, RankLFG
from nn import Adam, BatchNorm, Dropout, LeakyReLU, Linear, Sequential, Tanh, cosine, multinomial
from serve import Recommender
from settings import COUNTS, GRID, SETTINGS, Noise, choices
from svd import EASE, SVD, BiasSVD, FoldIn, MultVAE, Popularity, SVDpp, few_columns, fold_in
from svd import like_threshold, likes_of, orthonormal, random_part, truncated_svd

# Layers


def check_gradients(loss, arrays, gradients):
    """Against central differences of loss() by each array (float64; changed in place, put back)."""
    assert len(arrays) == len(gradients)
    for n, (x, gradient) in enumerate(zip(arrays, gradients)):
        assert x.dtype == np.float64 and x.shape == gradient.shape
        expected = np.empty_like(x)
        for at in np.ndindex(*x.shape):
            old = x[at]
            x[at] = old + 1e-6
            above = loss()
            x[at] = old - 1e-6
            expected[at] = (above - loss()) / 2e-6
            x[at] = old
        scale = np.abs(expected).max()
        assert scale > 1e-3 and np.abs(gradient - expected).max() < 1e-6 * scale, f"array {n}"


def test_layers_worked_by_hand():
    x = np.array([[-2.0, 3]])
    assert LeakyReLU().forward(x)[0].tolist() == [[-0.02, 3]]
    assert Tanh().forward(np.log([[2.0]]))[0] == pytest.approx(0.6)        # (2 - 1/2) / (2 + 1/2)
    layer = Linear(300, 200, np.random.default_rng(0))
    assert layer.W.std() == pytest.approx(1 / 30, rel=0.01) and not layer.b.any()  # 1 / (3 * 300)
    layer.W, layer.b = np.array([[5], [7]]), 1
    assert layer.forward(x)[0].tolist() == [[12]]          # -2 * 5 + 3 * 7 + 1
    assert Sequential(layer).backward(np.ones((1, 1)), [x])[0] is None     # only if asked for
    ones = np.ones((100, 100), np.float32)
    assert np.array_equal(Dropout(0.4, None).forward(ones, training=False)[0], ones)
    y = Dropout(0.4, np.random.default_rng(0)).forward(ones, training=True)[0]
    assert np.unique(y) == pytest.approx([0, 1 / 0.6]) and abs((y == 0).mean() - 0.4) < 0.02
    loss, d = multinomial(np.array([[1e4, 0, -1e4]], np.float32), np.array([0]), np.array([1]))
    assert (loss, d.tolist(), d.dtype) == (1e4, [[1, -1, 0]], np.float32)  # softmax 1, 0, 0


def test_batch_norm_while_training_and_after():
    layer = BatchNorm(1, momentum=0.25, dtype=np.float64)
    layer.gain[:], layer.shift[:], layer.mean[:] = 3, 1, 1
    x = np.array([[0.0], [4]])                             # mean 2, variance 4: normal (x - 2) / 2
    y = layer.forward(x, training=True)[0]
    assert y == pytest.approx(np.array([[-2], [4]]), abs=1e-4)             # 3 normal + 1
    assert (layer.mean[0], layer.var[0]) == (1.25, 1.75)   # 1 + (2 - 1) / 4, 1 + (4 - 1) / 4
    layer.var[:] = 0.25
    y = layer.forward(x, training=False)[0]                # 3 (x - 1.25) / 0.5 + 1 = 6 x - 6.5
    assert y == pytest.approx(np.array([[-6.5], [17.5]]), abs=1e-3)
    assert (layer.mean[0], layer.var[0]) == (1.25, 0.25)   # as they were
    y, cache = layer.forward(x[[1, 1]], training=True)     # variance 0: eps stands in
    assert y.tolist() == [[1], [1]] and cache[1] == pytest.approx(1e5 ** 0.5)


def test_adam_steps_as_in_the_paper_on_the_whole_chunks_and_some_rows():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 3))
    rows = np.r_[:22, 23:31, 32:52:2]                      # of 52: with no gap, one, and many
    spread = np.ones((52, 3))
    spread[rows] = start
    adams = [Adam([p.copy(), p[:, 0].copy()], l2=[0.1, 0]) for p in (start, start, spread)]
    adams[1].chunk = 7
    adams[2].chunk = 12                                    # four rows of three
    expected = [[p.copy(), 0 * p, 0 * p] for p in adams[0].params]         # p, m, v
    for t in (1, 2, 3):
        x, dy = rng.normal(size=(5, 40)), rng.normal(size=(5, 3))
        for (p, m, v), g, l2 in zip(expected, (x.T @ dy, x[0]), (0.1, 0)):
            g = g + 2 * l2 * p
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= 0.1 * m / (1 - 0.9 ** t) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
        for adam in adams[:2]:
            adam.step([x.T @ dy, x[0].copy()], rate=0.1)
        adams[2].step([(x, dy), x[0].copy()], rate=0.1, rows=[rows] * 2)
    for (p, *_), whole, parts, some in zip(expected, *(adam.params for adam in adams)):
        assert np.abs(p).max() > 0.1 and (np.delete(some, rows, 0) == 1).all()
        assert [whole, parts, some[rows]] == [pytest.approx(p, rel=1e-11)] * 3
    with pytest.raises(AssertionError):                    # it would update a copy
        Adam([start.T])


def test_a_float32_step_stays_in_float32_whatever_the_rate_is():
    g = np.random.default_rng(0).normal(size=999).astype(np.float32)
    adams = [Adam([np.zeros(999, np.float32)]) for _ in range(2)]
    for adam, rate in zip(adams, (0.1, np.float64(0.1))):  # computing in float64 is slower
        adam.step([g.copy()], rate)
    assert (adams[0].params[0] == adams[1].params[0]).all()


def test_adam_moves_rows_that_waited_as_far_as_if_they_had_not():
    # row 1 in every sixth step: it has moved as far as it would have by the step before the next
    dense, few = (Adam([np.ones((3, 2))], b2=0.9999) for _ in range(2))
    for t in range(1, 601):
        g = np.array([[1, np.sin(t)], [t % 6 == 1, (t % 6 == 1) / 2], [0, 0]])
        rows = np.array([0, 1][:1 + (t % 6 == 1)])
        few.step([g[rows]], rate=0.01, rows=[rows])
        dense.step([g], rate=0.01)
    (few,), (dense,) = few.params, dense.params
    assert few[0] == pytest.approx(dense[0], rel=1e-9)
    assert few[1] == pytest.approx(dense[1], rel=0.03) and few[1, 0] < -1 and (few[2] == 1).all()
    # the penalty of the steps between, but not of those before the first, shrinks it: not beyond 0
    few = Adam([np.ones((1, 1))], l2=10)
    for least in (0.9, 0, 0):
        for _ in range(99):
            few.step([np.zeros((0, 1))], rate=0.01, rows=[np.array([], int)])
        few.step([np.zeros((1, 1))], rate=0.01, rows=[np.array([0])])
        assert least < few.params[0][0, 0] < 1
    assert few.params[0][0, 0] < 0.1


# Matrix factorization

SEVEN = Ratings([0, 0, 0, 1, 3, 3, 4], [0, 1, 3, 2, 0, 3, 2], [5, 3, 4, 1, 2, 5, 4], (5, 4))


@pytest.fixture(scope="module")
def small():
    return synthetic(60, 40, 900, seed=1)


def random_ratings(n_users, n_items, share=1, rank=99):
    """Ratings of a share of all pairs, of a matrix of some rank, and their dense matrix."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n_users, rank)) @ rng.normal(size=(rank, n_items))
    seen = rng.random(dense.shape) < share
    return Ratings(*np.nonzero(seen), dense[seen], dense.shape), np.where(seen, dense, 0)


def record(owner, name, setattr=setattr):
    """List of (arguments, result) that each further call of a method or function adds to."""
    method = getattr(owner, name)
    calls = []

    def recording(*arguments, **options):
        calls.append((arguments, method(*arguments, **options)))
        return calls[-1][1]

    setattr(owner, name, recording)
    return calls


@pytest.mark.parametrize("shape,k,share,rank", [
    ((60, 45), 5, 0.3, 99), ((700, 30), 8, 0.3, 99), ((30, 600), 30, 0.3, 99),
    ((520, 90), 1, 0.3, 99), ((300, 400), 5, 0.003, 99),   # few columns of a block
    ((40, 30), 50, 1, 3), ((4, 30), 50, 1, 4), ((30, 4), 50, 1, 4), ((1, 1), 50, 1, 1),
    ((5, 6), 50, 1, 0)])
def test_truncated_svd_against_numpy_and_past_a_planted_rank(monkeypatch, shape, k, share, rank):
    monkeypatch.setattr(orthonormal, "__defaults__", (100,))               # in one to six parts
    R, dense = random_ratings(*shape, share, rank)
    U, S, Vt = np.linalg.svd(dense, full_matrices=False)
    left, right = truncated_svd(R, k)
    assert left.shape == (shape[0], k) and right.shape == (k, shape[1])
    assert left.dtype == right.dtype == np.float32
    assert np.abs(left @ right - U[:, :k] * S[:k] @ Vt[:k]).max() < 0.01 * max(S[0], 0.01)
    top = min(k, len(S), rank)
    expected = np.append(S[:top], np.zeros(k - top))       # past the rank all is 0
    for squares in ((left ** 2).sum(0), (right ** 2).sum(1)):              # each has the root of S
        assert squares == pytest.approx(expected, rel=2e-4, abs=0)


def test_few_columns_is_by_the_share_that_a_batch_rates():
    R = Ratings([0, 0, 1, 3], [0, 1, 0, 0], [1, 1, 1, 1], (4, 4))
    # of 3 users who rate, all have item 0 and one has item 1: 2 rate 1 + 1 - (2/3)^2 of 4 items
    assert few_columns(R, 2) == (14 / 9 / 4 < 0.45) and not few_columns(R, 5)
    R = random_ratings(300, 400, share=0.003)[0]           # an item rated once has its whole
    once = R.T.counts == 1                                 # penalty in one of the two blocks
    assert few_columns(R, 128) and (BiasSVD(n_factors=2, epochs=1).fit(R).root_n[once] == 2).all()


@pytest.mark.parametrize("cls", [SVD, BiasSVD, SVDpp])
def test_gradients_of_matrix_factorization(cls):
    model = cls(n_factors=2, epochs=0, l2=0.7, l2_bias=0.3).fit(SEVEN)
    users = np.array([3, 2, 0])                            # user 2 has no ratings
    rng = np.random.default_rng(1)
    model.q, model.bi, p, bu, y = (rng.normal(size=s) for s in ((4, 2), 4, (3, 2), 3, (4, 2)))
    model.y = y = y * (cls is SVDpp)
    H = next(SEVEN.blocks())[0][users]
    N = (H > 0) / np.sqrt([[2], [1], [3]])                 # of z, the implicit factors

    def squares():
        H_pred = model.mu + bu[:, None] + model.bi + (p + N @ y) @ model.q.T
        return ((H > 0) * (H_pred - H) ** 2).sum()

    def loss():
        of_users = 0.7 * (p ** 2).sum(1) + 0.3 * bu ** 2
        of_items = 0.7 * (model.q ** 2 + y ** 2).sum(1) + 0.3 * model.bi ** 2
        # of their ratings, those of items in all; the block has a share of 0.6
        return (squares() + np.sqrt([2, 0, 3]) @ of_users
                + 0.6 * np.sqrt([2, 1, 2, 2]) @ of_items) / 3

    error, (dp, dbu, dq, dbi, *dy) = model.gradients(SEVEN.rows(users), p, bu, 0.6)
    assert error == pytest.approx(squares()) and not dp[1].any() and not dbu[1].any()
    check_gradients(loss, [p, model.q] + [y] * (cls is SVDpp), [dp, dq] + dy)
    if cls is SVD:
        assert not dbu.any() and not dbi.any()
    else:
        check_gradients(loss, [bu, model.bi], [dbu, dbi])


@pytest.mark.parametrize("cls", [SVD, BiasSVD, SVDpp])
def test_training_starts_at_the_svd_and_an_epoch_takes_each_user_once(cls, monkeypatch):
    R = random_ratings(400, 200, share=0.3)[0]
    R = R.where((R.users > 99) & (R.items != 7))           # 300 users with ratings: three blocks
    R = R.with_values(3 + 4 * R.values / np.ptp(R.values))         # unit 1
    told = []
    start, model = (cls(n_factors=2, start=0.5, epochs=n, rate=1e-6) for n in (0, 2))
    calls, steps = record(model, "gradients"), record(Adam, "step", monkeypatch.setattr)
    left, right = truncated_svd(R.with_values(R.values - R.values.mean()), 2)
    # p and q start at half of it each, and stay near: the rate is low
    assert start.fit(R).p @ start.q.T == pytest.approx(0.25 * left @ right, abs=1e-3)
    model.fit(R, progress=lambda *epoch: told.append(epoch))
    for name in ("p", "q", "bu", "bi", "y")[:4 + (cls is SVDpp)]:
        moved = getattr(model, name) != getattr(start, name)
        rated = R.counts > 0 if name in ("p", "bu") else R.T.counts > 0
        assert not moved[~rated].any()
        assert moved[rated].mean() > 0.99 if cls is not SVD or name in "pq" else not moved.any()
    assert np.array_equal(model.scores([3])[0], model.mu + model.bi)       # has no ratings
    mse = np.mean((model.predict(R.users, R.items) - R.values) ** 2)       # more than 2 ** 14 pairs
    assert told == [(n, pytest.approx(mse, rel=1e-4)) for n in (0, 1)] and len(calls) == 6
    for epoch in (calls[:3], calls[3:]):
        values = np.concatenate([ratings[2] for (ratings, *_), _ in epoch])
        assert np.array_equal(np.sort(values), np.sort(R.values))
        assert sum(share for (*_, share), _ in epoch) == pytest.approx(1)
    rates = [1e6 * rate for (_, _, rate, *_), _ in steps]  # of a block's users, then items
    assert rates == pytest.approx(np.outer(cosine(np.arange(6) / 6), [20, 1]).ravel())


def test_svdpp_predicts_with_p_and_z_in_sum_and_its_fold_in_is_shrunk_towards_z(known):
    model, bare = (SVDpp(n_factors=3, epochs=3, rate=0.02) for _ in range(2))
    bare.y = np.zeros((40, 3), np.float32)
    BiasSVD.fit(bare, known)                               # p as trained
    N = (next(known.blocks())[0] > 0) / np.sqrt(np.maximum(1, known.counts))[:, None]
    expected = bare.mu + bare.bu[:, None] + bare.bi + (bare.p + N @ bare.y) @ bare.q.T
    assert model.fit(known).scores(np.arange(60)) == pytest.approx(expected, abs=1e-5)
    model.fit = None                                       # it is taken as it is
    solved = FoldIn(model, 1e9, 1e9, centre=model.implicit_row).fit(known)
    expected = bare.mu + bare.bi + N @ bare.y @ bare.q.T
    assert solved.scores(np.arange(60), known) == pytest.approx(expected, abs=1e-5)


def solve_by_least_squares(A, residual, ridge, centre=0, noise=1.0):
    """x of sum (residual - A x)^2 / noise + ridge . (x - centre)^2, all stacked into one system."""
    root, weight = np.sqrt(np.asarray(ridge, np.float64)), 1 / np.sqrt(noise)
    system = np.vstack([(A.T * weight).T, np.diag(root)])
    return np.linalg.lstsq(system, np.append(residual * weight, root * centre), rcond=None)[0]


def features(q, R, E, like=None):
    """What a prior reads of users: 1, E, sums of q over rated (and liked) / (n + 5), log(1 + n)."""
    H = next(R.blocks())[0]
    n = (H > 0).sum(1, keepdims=True)
    sums = [(H > 0) @ q] + ([] if like is None else [(H >= like) @ q])
    return np.hstack([np.ones(n.shape), E, *(one / (n + 5) for one in sums), np.log1p(n)])


def regress(Z, x, weight, strength):
    """W of the weighted ridge regression of each column of x on Z, whose first column is free."""
    root, ridge = np.sqrt(weight)[:, None], [0] + [strength] * (Z.shape[1] - 1)
    return np.array([solve_by_least_squares(root * Z, column, ridge) for column in (root * x).T]).T


@pytest.mark.parametrize("n", [0, 1, 4, 5, 12])            # both branches: k + 1 is 5
@pytest.mark.parametrize("noisy", [False, True])
def test_fold_in_influence_and_variance_are_what_solving_again_gives(n, noisy):
    rng = np.random.default_rng(n)
    q1, base, centre = (rng.normal(size=size) for size in ((20, 5), 20, 5))
    items, values = rng.permutation(20)[:n], rng.normal(size=n)
    ridge = np.array([0.7] * 4 + [0.3])
    noise = rng.uniform(0.5, 2, 20) if noisy else np.ones(20)
    asked = np.array([3, 19, 3])

    def solved(values, noise):
        return solve_by_least_squares(q1[items], values - base[items], ridge, centre, noise)

    problem = values, q1, base, ridge, centre, noise
    x = fold_in(items, *problem)
    assert x == pytest.approx(solved(values, noise[items]), rel=1e-9)
    assert np.array_equal(x, centre) == (n == 0)           # an empty profile gives the centre
    single = fold_in(items, *(a.astype(np.float32) for a in problem))
    assert single.dtype == np.float32 and single == pytest.approx(x, rel=1e-4, abs=1e-4)
    model = FoldIn(None, 0.7, 0.3)
    vars(model).update(q1=q1, base=base, ridge=ridge, noise=noise)
    shares = model.shares(items, values, asked)
    assert shares.shape == (3, n)
    inverse = np.linalg.inv(q1[items].T / noise[items] @ q1[items] + np.diag(ridge))
    v = np.diag(q1[asked] @ inverse @ q1[asked].T)
    residual = values - base[items] - q1[items] @ x
    squares = 0
    for j, one in enumerate(np.eye(n)):
        raised = solved(values + one, noise[items])
        assert shares[:, j] == pytest.approx(q1[asked] @ (raised - x) * (values - base[items])[j])
        others = solved(values, np.where(one, np.inf, noise[items]))       # without rating j
        without = values[j] - base[items[j]] - q1[items[j]] @ others
        squares += residual[j] * without / noise[items[j]]
    a, b = model.variance(items, values, x, asked)
    user = (8 + squares / 0.3) / (8 + n)                   # of sigma^2, here 0.3
    assert a * 0.3 + b == pytest.approx(0.3 * user * (noise[asked] + v))


# LFG


def lfg(cls=LFG, **settings):
    return cls(**{**dict(n_factors=3, hidden=(8,), l2=0.005, l2_M=0.2, mask=0.2, dropout=0.3,
                         svd_rows=3, epochs=3, rate=0.01, batch=16, seed=0), **settings})


@pytest.mark.parametrize("cls", [LFG, RankLFG, CellsLFG])
def test_gradients_of_the_whole_lfg_against_the_dense_loss(cls):
    rng = np.random.default_rng(1)
    E = rng.integers(2, size=(5, 3)).astype(float)
    model = lfg(cls, hidden=(6, 5), epochs=0, dtype=np.float64).fit(SEVEN, E)
    model.rated = 0.2                                      # read by those that order
    params = [*model.network.params, model.M.T, model.bi]
    for p in params:
        p += 0.5 * rng.normal(size=p.shape)
    for layer in model.network.layers:                     # Dropout drops the same values each time
        layer.rng = SimpleNamespace(random=lambda *size: np.random.default_rng(1).random(*size))
    users = np.array([3, 2, 0, 4])                         # user 2 has no ratings
    H = next(SEVEN.blocks())[0][users]
    row, item, value = SEVEN.rows(users)
    value = model.inside(value)
    kept = np.array([1, 0, 1, 1, 0, 1], bool)
    inputs = model.encode(row[kept], item[kept], value[kept], E[users])
    weight = rng.random(6)                                 # of ratings, in LFG

    def loss():
        G = model.network.forward(inputs, training=True)[0]
        s, bu = G[:, :3] @ model.M, G[:, 3:]
        if cls is LFG:
            return weight @ (model.mu + bu + model.bi + s - H)[row, item] ** 2 / 4
        target = np.where(H >= 4, 1, 0.2 * (H > 0))
        if cls is CellsLFG:                                # ratings weigh 1, every other cell 0.3
            return (np.where(H > 0, 1, 0.3) * (target - s) ** 2).sum() / 4
        p = np.exp(s + bu + model.bi)
        return -(target * np.log(p / p.sum(1, keepdims=True))).sum() / 4

    told, grads = model.gradients(inputs, row, item, value, weight)
    assert told * (np.log(5) if cls is RankLFG else 1) == pytest.approx(loss())
    assert len(grads) == 10                                # 3 Linear, 1 BatchNorm
    assert cls is not CellsLFG or not grads.pop().any()    # it has no biases
    check_gradients(loss, params[:len(grads)], grads)
    G, caches = model.network.forward(inputs, training=True)
    assert same(*(model.network.backward(G, caches)[1] for _ in range(2)))         # it is pure


@pytest.mark.parametrize("cls", [LFG, PaperLFG, RankLFG, CellsLFG, BiasSVD, SVDpp])
def test_training_on_the_few_columns_that_a_batch_rates_is_as_on_all(cls, monkeypatch):
    d = synthetic(40, 30, 300, seed=3)
    R = d.ratings.where(d.ratings.items % 7 != 3)
    found, told = [], []
    for few in (True, False):
        monkeypatch.setattr("svd.few_columns", lambda R, size: few)
        monkeypatch.setattr("lfg.few_columns", lambda R, size: few)
        model = (cls(n_factors=4, epochs=5) if cls in (BiasSVD, SVDpp) else
                 lfg(cls, batch=40, dtype=np.float64))     # one batch, of all rated items
        found.append(model.fit(R, d.E).scores(np.arange(40), R, d.E)[:, R.T.counts > 0])
        if isinstance(model, LFG):                         # two batches, which rate different items
            half = lfg(cls, batch=20, epochs=1, l2=0, l2_M=0)
            half.fit(R, d.E, progress=lambda epoch, error: told.append(error))
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert told[:1] == pytest.approx(told[1:], rel=1e-5)


@pytest.mark.parametrize("cls,expected", [
    # mu = 3; deviations, shrunk as by five ratings of 0: (2 + 0) / (2 + 5), -2 / (1 + 5), 0 / 5
    (LFG, [[0, 1, (2 - 2 / 7) * 0.5 ** 0.5, 0, -2 * 0.5 ** 0.5, 0.5 ** 0.5, 0, 0.5 ** 0.5],
           [1, 1] + 6 * [0], [0, 0, 0, 3 - 3 + 1 / 3, 0, 0, 1, 0]]),
    (PaperLFG, [[0, 1, 5, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 3, 0]]),       # ratings as they are
    *((cls, [[0, 1, 0.5 ** 0.5, 0, 0, 0.5 ** 0.5, 0, 0.5 ** 0.5],
             [1, 1] + 6 * [0], 6 * [0] + [1, 0]]) for cls in (RankLFG, CellsLFG))])
def test_lfgs_encode_as_by_hand(cls, expected):
    R = Ratings([0, 0, 1], [0, 1, 0], [5, 1, 3], (2, 3))   # likes are 4 and above: one
    E = np.array([[0, 1], [1, 1], [0, 0]])
    model = lfg(cls, epochs=0, dtype=np.float64).fit(R, E[:2])
    # E, ratings - mu - deviation or likes, rated; the first user has two ratings, 5 and 1
    inputs = model.encode(np.array([0, 0, 2]), np.array([0, 2, 1]),
                          model.inside(np.array([5, 1, 3])), E)
    assert inputs == pytest.approx(np.array(expected), abs=1e-6)


def test_lfg_starts_M_at_a_truncated_svd_and_noise():
    R = random_ratings(30, 20, share=0.4)[0]
    R = R.with_values(4 * R.values / np.ptp(R.values))     # unit 1
    more = R.values - R.values.mean()
    deviation = np.bincount(R.items, more) / (R.T.counts + 5)              # as if five more were mu
    own, cells, rank, paper, filled = (lfg(cls, n_factors=8, epochs=0).fit(R) for cls in (
        LFG, CellsLFG, RankLFG, PaperLFG, partial(PaperLFG, fill_mu=True)))
    liked = R.values >= like_threshold(R.values)
    for M, values, scale in ((own.M[:3], more - deviation[R.items], 0.3), (cells.M[:3], liked, 0.3),
                             (rank.M[:3], liked, 0.3), (paper.M, R.values, 1), (filled.M, more, 1)):
        expected = scale * truncated_svd(R.with_values(values), len(M))[1]
        assert M == pytest.approx(expected, abs=1e-4) and M.dtype == np.float32
    assert 0.005 < own.M[3:].std() < 0.02 and own.M.shape == (8, 20)
    assert rank.bi == pytest.approx(np.log(np.bincount(R.items, liked) + 1))
    assert not own.bi.any() and not cells.bi.any()
    # the mu of the paper is the mean of a user with at least ten ratings
    above = np.bincount(R.users, R.values) / np.maximum(1, R.counts) - R.values.mean()
    above[R.counts < 10] = 0
    x, told = paper.encode(R.users, R.items, R.values, np.zeros((30, 0))), []
    for own, values in ((True, R.values), (False, R.values - above[R.users])):
        model = lfg(PaperLFG, n_factors=8, epochs=0, own_mean=own).fit(R)
        told += model.scores(np.arange(30), R), model.gradients(x, R.users, R.items, values, 1)[0]
    assert told[0] - told[2] == pytest.approx(np.tile(above[:, None], 20), abs=1e-5)
    assert told[1] == pytest.approx(told[3]) and above.any() and not above.all()
    ends = [type(model.network.layers[-1]) for model in (cells, rank, paper)]
    assert ends == [Tanh, Linear, Tanh]                    # logits need more than the range of Tanh


@pytest.mark.parametrize("mask,low,high", [(0, 1, 1), (0.3, 0.7, 0.7), ((0.9, 0.9), 0.1, 0.1),
                                           ((0.0, 0.0), 1, 1), ((0.2, 0.4), 0.6, 0.8)])
def test_lfg_masks_a_share_of_its_input_and_none_of_its_target(mask, low, high):
    R = random_ratings(25, 1000)[0]
    R = R.where(R.users > 4)                               # 20 users with ratings
    model = lfg(mask=mask, shown_weight=0.25)
    calls = record(model, "gradients")
    model.fit(R)
    assert len(calls) == 2 * 3                             # batches of ten users
    for (x, row, item, value, weight), _ in calls:
        shown = x[row, 1000 + item] > 0                    # which weigh 0.25, masked ones 1
        assert len(row) == 10_000 and np.array_equal(weight, np.where(shown, 0.25, 1))
        shares = np.bincount(row, shown) / 1000            # of each user; deviation 0.015
        assert (np.abs(shares - (low + high) / 2) <= (high - low) / 2 + 0.07 * (0 < low < 1)).all()
        assert shares.std() > 0.03 if low < high else shares.std() < 0.03  # each its own draw


def test_lfg_trains_all_its_parameters_penalises_matrices_and_tells_the_error(small, monkeypatch):
    told = []
    model = lfg(hidden=(8, 6), l2=0.1, l2_M=0.3, epochs=2)
    calls, steps = record(model, "gradients"), record(Adam, "step", monkeypatch.setattr)
    model.fit(small.ratings, small.E, progress=lambda *epoch: told.append(epoch))
    errors = [len(x) * mse / 900 for (x, *_), (mse, _) in calls]           # four batches an epoch
    assert told == [(0, pytest.approx(sum(errors[:4]))), (1, pytest.approx(sum(errors[4:])))]
    rates = 0.005 * (1 + np.cos(np.pi * np.arange(8) / 8))
    assert [rate for (_, _, rate, *_), _ in steps] == pytest.approx(rates)
    adam = steps[0][0][0]
    trained = [*model.network.params, model.M.T, model.bi]
    assert len(adam.params) == 10 and all(np.shares_memory(p, q) and p.shape == q.shape
                                         for p, q in zip(adam.params, trained))
    assert adam.l2 == [0.1, 0, 0, 0, 0.1, 0, 0.1, 0, 0.3, 0]
    assert [type(layer) for layer in model.network.layers] == [
        Linear, LeakyReLU, BatchNorm, Dropout, Linear, LeakyReLU, Dropout, Linear, Tanh]


def test_lfg_item_generates_items_and_solves_users_as_by_hand(small, known):
    R, E = known, small.E
    model = LFGItem([lfg(dtype=np.float64)], 4.0, 2.0, 3.0, 0.5).fit(R, E, small.F)
    G = lfg(dtype=np.float64).fit(R.T, small.F).user_factors(np.arange(40), R.T, small.F)
    q1 = np.hstack([G[:, :-1], np.ones((40, 1))])          # x . q1 = p . q + bu
    base = R.values.mean() + G[:, -1]                      # mu + bi
    H = next(R.blocks())[0]
    seen = H > 0
    train = R.counts > 0

    def solved(noise, c):
        return np.array([solve_by_least_squares(q1, H[u] - base, [4, 4, 4, 2], c[u],
                                                np.where(seen[u], noise, np.inf))
                         for u in range(60)])

    def prior(x):
        """W of three sets of profiles; with none, a user is the one who has given all ratings."""
        part = random_part(R, np.random.default_rng(0))
        Z = np.vstack([features(q1, shown, E)[train] for shown in (R, part, R.where([]))])
        x = x[train]
        y = R.values - base[R.items] - x[np.searchsorted(np.flatnonzero(train), R.users), -1]
        average = solve_by_least_squares(q1[R.items], y + x[:, -1].mean(), [4, 4, 4, 2], x.mean(0),
                                         R.counts[R.users] ** 0.5)
        rows = np.vstack([x, x, x - x.mean(0) + average])
        return regress(Z, rows, np.full(len(Z), 1 / 3), 0.5)               # strength

    x = solved(1, np.zeros((60, 4)))
    squares = seen * (H - base - x @ q1.T) ** 2
    noise = (squares.sum(0) / (squares.sum() / len(R)) + 20) / (seen.sum(0) + 20)
    assert model.noise == pytest.approx(noise) and np.ptp(noise) > 0.1
    x = solved(noise, features(q1, R, E) @ prior(x))
    rows = np.c_[x[:, :-1], np.ones(60)]                   # [p, 1] of users, [q, base] of items
    for i in np.flatnonzero(seen.any(0)):
        *q1[i, :-1], base[i] = solve_by_least_squares(
            rows, H[:, i] - x[:, -1], [3, 3, 3, 10], np.append(q1[i, :-1], base[i]),
            np.where(seen[:, i], 1, np.inf))
    assert model.base == pytest.approx(base) and model.q1 == pytest.approx(q1, abs=1e-6)
    W = prior(x)
    x = solved(noise, features(q1, R, E) @ W)
    assert model.W == pytest.approx(W, abs=1e-6)
    assert x[3] == pytest.approx(W[0] + E[3] @ W[1:1 + E.shape[1]])        # user without ratings
    assert model.scores(np.arange(60), R, E) == pytest.approx(base + x @ q1.T)


def test_networks_are_joined_by_the_mean_of_their_products(small):
    R = small.ratings
    networks = [lfg(seed=seed, dtype=np.float64).fit(R.T, small.F) for seed in (0, 1, 2)]
    G = [one.user_factors(np.arange(40), R.T, small.F) for one in networks]
    q, bias = LFGItem(networks, 4.0, 2.0).generate(R.T, small.F, None)
    products = np.mean([g[:, :-1] @ g[:, :-1].T for g in G], 0)
    assert q @ q.T == pytest.approx(products) and bias == pytest.approx(np.mean(G, 0)[:, -1])
    values, vectors = np.linalg.eigh(products)
    q = LFGItem(networks, 4.0, 2.0, kept=2).generate(R.T, small.F, None)[0]  # the best two columns
    assert q.shape == (40, 2)
    assert q @ q.T == pytest.approx(vectors[:, -2:] * values[-2:] @ vectors[:, -2:].T)
    one = LFGItem(networks[:1], 4.0, 2.0, kept=2).generate(R.T, small.F, None)       # as it is
    assert np.array_equal(one[0], G[0][:, :-1]) and np.array_equal(one[1], G[0][:, -1])


def test_noise_is_measured_on_users_not_seen_in_training(small):
    R = small.ratings
    H = next(R.blocks())[0]
    model = MODELS["LFGItem"](0)
    fits, predictions, terms = (
        record(model, method) for method in ("fit", "predict", "variance_terms"))
    noise = Noise(model).fit(R, small.E, small.F)
    ((train, *_), _), = fits
    for (users, items, shown, _), _ in predictions:
        held = np.union1d(users, shown.users)
        assert len(held) == 6 and not np.isin(train.users, held).any()
        assert len(train) + len(shown) + len(users) == len(R)
        assert not {*zip(users, items)} & {*zip(shown.users, shown.items)}
    fifth, part = [(H[asked[:2]] - got) ** 2 for asked, got in predictions]
    assert 0.15 < len(fifth) / (len(R) - len(train)) < 0.25
    assert noise.constant == pytest.approx(fifth.mean())
    (_, (a, b)), = terms
    assert np.mean(part / (a * noise.sigma2 + b)) == pytest.approx(1, abs=1e-3)
    # too few users, nothing to predict, ratings all equal: the variance of ratings, or 1
    for few in (R.where(R.users < 19), R.where(R.ranks(np.random.default_rng(0)) < 4),
                R.with_values(np.ones(900))):
        variance = pytest.approx(few.values.var() or 1)
        noise = Noise(MODELS["BiasSVD"](0)).fit(few)
        assert (noise.sigma2, noise.constant) == (variance, variance)


def test_standardised_scores_by_hand():
    scores, deviation = LFGRank([], [], [1, 1]).scaled(np.array([[1.0, 3], [7, 7 + 1e-7], [0, 0]]))
    assert scores.tolist() == [[-1, 1], [0, 0], [0, 0]]    # the same but for rounding: 0
    assert deviation.tolist() == [[1], [np.inf], [np.inf]]


# The contract that all models keep

SHORT = dict(n_factors=3, epochs=3)
MODELS = {                                                 # each from a seed
    "SVD": lambda seed: SVD(**SHORT, seed=seed),
    "BiasSVD": lambda seed: BiasSVD(**SHORT, seed=seed),
    "SVDpp": lambda seed: SVDpp(**SHORT, seed=seed),
    "FoldIn": lambda seed: FoldIn(BiasSVD(**SHORT, seed=seed), 2.0, 1.0),
    "FoldIn to z": lambda seed: FoldIn(m := SVDpp(**SHORT, seed=seed), 2, 1, centre=m.implicit_row),
    "FoldIn of LFG": lambda seed: FoldIn(lfg(seed=seed), 2.0, 1.0),
    "LFG": lambda seed: lfg(seed=seed),
    "PaperLFG": lambda seed: lfg(PaperLFG, seed=seed),
    "LFGItem": lambda seed: LFGItem([lfg(seed=seed)], 4.0, 2.0),
    "LFGDual": lambda seed: LFGDual(
        [lfg(seed=seed)], [LFGItem([lfg(seed=seed + n) for n in (1, 2)], 4.0, 2.0)], [0.2, 0.6]),
    "RankLFG": lambda seed: lfg(RankLFG, seed=seed),
    "LFGRankItem": lambda seed: LFGRankItem(
        [lfg(CellsLFG, seed=seed + n) for n in (1, 2)], 4.0, 20.0, 3.0, 0.5),
    "LFGRank": lambda seed: LFGRank(
        [lfg(RankLFG, seed=seed)], [MODELS["LFGRankItem"](seed)], [0.5, 0]),
    "EASE": lambda seed: EASE(5.0),
    "MultVAE": lambda seed: MultVAE(4, 16, epochs=3, batch=16, rate=0.01, seed=seed)}
RANKERS = ["RankLFG", "LFGRankItem", "LFGRank", "EASE", "MultVAE"]         # whose scores only order


@pytest.fixture(scope="module")
def known(small):
    """Nobody rates item 7, user 3 rates nothing, user 4 two items, user 5 all the others."""
    R = small.ratings
    R = R.where((R.items != 7) & ~np.isin(R.users, [3, 5]))
    R = R.where((R.users != 4) | (np.arange(len(R)) < R.starts[4] + 2))
    rated = np.delete(np.arange(40), 7)
    return Ratings(np.append(R.users, np.full(39, 5)), np.append(R.items, rated),
                   np.append(R.values, 1 + rated % 5), R.shape)


@pytest.fixture(scope="module", params=MODELS)
def fitted(request, known, small):
    return request.param, MODELS[request.param](0).fit(known, small.E, small.F)


@pytest.mark.parametrize("name", MODELS)
def test_fit_returns_the_model_and_does_without_side_information(name, known, small):
    model = MODELS[name](0)
    told = []
    assert model.fit(known, None, None, lambda *epoch: told.append(epoch)) is model
    assert told or name == "EASE"                          # has no epochs
    got = model.scores(np.arange(60), known, None)
    assert got.shape == (60, 40) and np.isfinite(got).all() and np.ptp(got) > 0.1
    # no side information is side information without columns; the same seed gives the same bits
    empty = MODELS[name](0).fit(known, small.E[:, :0], small.F[:, :0])
    assert empty.scores(np.arange(60), known, small.E[:, :0]).tobytes() == got.tobytes()
    other = MODELS[name](9).fit(known).scores(np.arange(60), known)
    assert (other != got).any() or name in ("SVD", "EASE")


def test_scores_agree_with_predictions_of_users_in_any_order(fitted, known, small):
    name, model = fitted
    rng = np.random.default_rng(0)
    users = rng.integers(3, 60, size=600)                  # more than one block of 512
    scores = model.scores(users, known, small.E)
    assert scores == pytest.approx(model.scores(np.arange(60), known, small.E)[users], abs=1e-5)
    if name in RANKERS:
        return
    items = rng.integers(40, size=600)
    predicted = model.predict(users, items, known, small.E)
    assert predicted == pytest.approx(scores[np.arange(600), items], abs=1e-5)
    terms = np.array(model.variance_terms(users, items, known, small.E))
    solved = isinstance(model, (FoldIn, LFGDual))          # user 3 has no ratings
    assert np.array_equal(terms[1] > 0, (users != 3) & solved)
    for n in range(3):                                     # as of each pair alone
        alone = model.variance_terms(users[n:n + 1], items[n:n + 1], known, small.E)
        assert terms[:, n] == pytest.approx(np.ravel(alone), rel=1e-3)
    for ask, shape in ((model.predict, (0,)), (model.variance_terms, (2, 0))):
        assert np.shape(ask(users[:0], items[:0], known, small.E)) == shape


def test_what_a_user_has_shown_is_all_that_is_read_of_a_user(fitted, known, small):
    model = fitted[1]
    users = np.array([3, 4, 30])                           # two of them with other ratings now
    own = np.isin(known.users, users)
    shown = known.with_values(np.where(own, 6 - known.values, known.values))
    E = np.where(np.isin(np.arange(60), users)[:, None], small.E, 1 - small.E)
    got = model.scores(users, shown, small.E)
    assert got == pytest.approx(model.scores(users, shown.where(own), E), abs=1e-5)
    change = np.abs(got - model.scores(users, known, small.E)).max(1)
    if isinstance(model, BiasSVD):
        assert not change.any() and np.array_equal(model.scores(users), got)
    else:
        assert change[0] < 1e-5 and change[1:].min() > 0.001


@pytest.mark.parametrize("times", [2.25, 0.1])
def test_any_rating_scale_gives_the_same_answers_in_its_unit(fitted, known, small, times):
    R = known.with_values(known.values * times)
    got = MODELS[fitted[0]](0).fit(R, small.E, small.F).scores(np.arange(60), R, small.E)
    unit = 1 if fitted[0] in RANKERS else times
    expected = unit * fitted[1].scores(np.arange(60), known, small.E)
    assert got == pytest.approx(expected, abs=2e-3 * unit)


@pytest.mark.parametrize("rate,epochs", [(10, 5), (1e4, 1), (1e19, 1), (1e38, 1), (1e38, 5)])
@pytest.mark.parametrize("cls,more", [(SVD, {}), (BiasSVD, {}), (SVDpp, {}), (LFG, {}),
                                      (LFG, dict(hidden=(8, 8), dtype=np.float64)),
                                      (RankLFG, {}), (CellsLFG, {}), (MultVAE, {})])
def test_a_training_that_diverges_says_so_even_in_its_last_step(small, cls, more, rate, epochs):
    with pytest.raises(FloatingPointError, match="^training diverged in epoch . .*; use a lower"):
        cls(n_factors=5, rate=rate, epochs=epochs, **more).fit(small.ratings, small.E)


@pytest.mark.parametrize("name", MODELS)
def test_training_on_constant_ratings_does_not_diverge_and_on_none_is_refused(name, small):
    for rating in (-7.5, 0, 100):
        R = small.ratings.with_values(np.full(900, rating))
        scores = MODELS[name](0).fit(R).scores(np.arange(60), R)
        assert np.isfinite(scores).all()
        off = np.abs(scores - rating).max() * (name not in RANKERS)
        assert off < (0.3 if name != "PaperLFG" else 100)  # which starts at the SVD of the ratings
    with pytest.raises(ValueError, match="no ratings"):
        MODELS[name](0).fit(R.where([]))
    if "LFG" in name:
        with pytest.raises(ValueError, match="(E has 59 rows for 60|E has 39 rows for 40) users"):
            MODELS[name](0).fit(small.ratings, small.E[1:], small.F[1:])


# Ranking


def test_likes_begin_at_three_quarters_of_the_scale():
    for scale, likes in (([1, 2, 3, 4, 5], [4, 5]), (np.arange(0.5, 5.1, 0.5), [4, 4.5, 5]),
                         ([0, 74, 75, 100], [75, 100]), ([7, 7], [7, 7])):
        for unit in (1, 0.03, 2.25):                      # float32 rounds 0.03 * 4 down
            R = Ratings([0] * len(scale), range(len(scale)), unit * np.array(scale), (1, 10))
            found = likes_of(R, like_threshold(R.values))
            assert R.values[found.items] / unit == pytest.approx(np.array(likes))
            assert (found.values == 1).all() and found.shape == R.shape


def test_gradients_of_mult_vae_and_its_input_by_hand():
    rng = np.random.default_rng(0)
    likes = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0] * 4, [0, 0, 1, 0]])
    L = Ratings(*np.nonzero(likes), np.ones(4), (4, 4))
    model = MultVAE(n_factors=2, hidden=5, epochs=0, dtype=np.float64).fit(L)
    x, row, item = model.encode(L, np.arange(4))
    assert x == pytest.approx(likes / np.sqrt([[2], [1], [1], [1]]))
    params = model.encoder.params + model.decoder.params
    for p in params:
        p += 0.3 * rng.normal(size=p.shape)
    eps = rng.normal(size=(4, 2))

    def loss():
        m, log_v = np.split(model.encoder.forward(x)[0], 2, axis=1)
        p = np.exp(model.decoder.forward(m + np.exp(log_v / 2) * eps)[0])
        divergence = (m ** 2 + np.exp(log_v) - log_v - 1).sum() / 2        # of N(m, v) from N(0, I)
        return (0.7 * divergence - (likes * np.log(p / p.sum(1, keepdims=True))).sum()) / 4

    told, grads = model.gradients(x, row, item, eps, 0.7)
    assert told == pytest.approx(loss())
    check_gradients(loss, params, grads)


def test_a_random_part_takes_some_ratings_at_random_from_none_to_all():
    # 31 ratings at most: floor(32 ** uniform) - 1 is 0, 1 to 2, 3 to 6, 7 to 14 and above alike
    R = random_ratings(3000, 31)[0]
    R = R.where((R.users == 0) | (R.items < 20))           # one has 31, all others 20
    part = random_part(R, np.random.default_rng(0))
    assert pairs(part) < pairs(R) and part.shape == R.shape
    counts = part.counts[1:]
    assert counts.min() == 0 and counts.max() == 20
    assert np.histogram(counts, [0, 1, 3, 7, 15, 21])[0] / 2999 == pytest.approx(0.2, abs=0.03)
    assert np.ptp(part.T.counts[:20]) < 0.2 * part.T.counts[0]             # no item is preferred


@pytest.mark.parametrize("l2,few,strength", [(2.0, 5.0, 3.0), (0.3, 100.0, 0.1)])
def test_lfg_rank_item_minimises_its_loss(known, small, l2, few, strength):
    model = LFGRankItem([lfg(CellsLFG, dtype=np.float64)], l2, few, strength, [0.5, 0.8])
    F = (np.arange(40)[:, None] % [2, 20] == 0).astype(np.float32)         # 20 and 2 of 40 items
    model.fit(known, small.E, F)
    Q = model.models[0].user_factors(np.arange(40), known.T, F)[:, :-1]
    Q = np.hstack([Q, F * [0.5, 0.8] * np.sqrt(np.log([2, 20]))])          # rare genres weigh more
    H = next(known.blocks())[0]
    n_liked = (H >= 4).sum(1)
    assert {0, 1, 4, 5} < set(n_liked) and n_liked.max() > 6               # k is 5: both branches

    def solved(c):
        """Rows (60, 5); a like costs (1 - s)^2 - 0.3 s^2 = 0.7 (s - 1 / 0.7)^2 + a constant."""
        t = few / (few + known.counts[:, None])
        targets = np.hstack([np.full(H.shape, 1 / 0.7), t * c @ Q.T])
        noise = np.hstack([np.where(H >= 4, 1 / 0.7, np.inf), np.full(H.shape, 1 / 0.3)])
        return np.array([solve_by_least_squares(np.vstack([Q, Q]), targets[u], [l2] * 5, c[u],
                                                noise[u]) for u in range(60)])

    # rows solved without a prior, regressed on the features of whole profiles and of parts; user 3,
    # without ratings, is left out, and a user weighs the root of their number of likes
    train = np.delete(np.arange(60), 3)
    part = random_part(known, np.random.default_rng(0))
    Z = np.vstack([features(Q, shown, small.E, 4)[train] for shown in (known, part)])
    weight = np.tile(np.sqrt(n_liked[train]), 2)
    weight = weight / weight.mean() / 2
    rows = solved(np.zeros((60, 5)))[train]
    c = features(Q, known, small.E, 4) @ regress(Z, np.vstack([rows, rows]), weight, strength)
    got = model.scores(np.arange(60), known, small.E)
    assert got == pytest.approx(solved(c) @ Q.T, abs=1e-5) and np.ptp(got[5]) > 0.1
    assert got[3] == pytest.approx(Q @ c[3], abs=1e-5) and np.ptp(got[3]) > 0.01       # p = c


def test_popularity_counts_likes_and_ease_is_a_ridge_regression_per_item(known):
    H = next(known.blocks())[0]
    assert Popularity().fit(known).scores([9, 3]).tolist() == [(H >= 4).sum(0).tolist()] * 2
    L = np.where(H >= 4, 1, 0.2 * (H > 0))                 # some were rated 1 to 3
    B = np.zeros((40, 40))
    for j in range(40):                                    # of all other items
        rest = np.delete(np.arange(40), j)
        B[rest, j] = solve_by_least_squares(L[:, rest], L[:, j], [3.0] * 39)
    assert EASE(3, 0.2).fit(known).scores([7, 5], known) == pytest.approx(L[[7, 5]] @ B, abs=1e-5)


@pytest.mark.parametrize("name", ["FoldIn", "LFG", "LFGItem", *RANKERS])
def test_two_planted_groups_are_found(name):
    rng = np.random.default_rng(0)
    liked = (np.arange(100)[:, None] + np.arange(20)) % 2 == 0             # even users, even items
    rated = rng.random((100, 20)) < np.where(liked, 0.7, 0.5)              # people choose
    R = Ratings(*np.nonzero(rated), np.where(liked, 5, 1)[rated], rated.shape)
    model = MODELS[name](0)
    for one in getattr(model, "parts", [model]):
        for network in getattr(one, "models", [one]):
            network.epochs = 30
    model.fit(R.where(R.users < 80))
    R = R.where((R.items > 3) | ~liked[R.users, R.items])  # two likes of each user are hidden
    scores = model.scores(np.arange(80, 100), R)[:, :4]    # of new users
    assert (scores[liked[80:, :4]].reshape(20, 2) > scores[~liked[80:, :4]].reshape(20, 2)).all()


# Data


def item_line(i, title, date, *genres):
    flags = [str(int(g in genres)) for g in data.GENRES]
    return f"{i}|{title}|{date}||url|{'|'.join(flags)}\n"


ML_100K = {"u.data": "2\t10\t3\t881\n1\t9\t5\t882\n10\t9\t1\t883\n",
           "u.user": "1|17|M|artist|00000\n2|35|F|doctor|T8H1N\n10|56|M|artist|0\n3|24|F|none|0\n",
           "u.item": item_line(9, "Été, L' (1987)", "01-Jan-1988", "Drama", "War")
           + item_line(10, "Babe (1995)", "", "Comedy") + item_line(11, "unknown", "", "unknown")}
ATOMIC = {"x.inter": f"user_id:token\titem_id:token\trating:float\ttime:float\n{ML_100K['u.data']}",
          "x.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
          + ML_100K["u.user"].replace("|", "\t"),
          "x.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
          "9\tÉté\t1988\tDrama War\n10\tBabe\t1995\tComedy\n11\tunknown\tunkonwn\tunknown\n"}
ML_1M = {"ratings.dat": "1::7::5::0\n2::7::3::0\n2::8::1::0\n",
         "users.dat": "".join(f"{n}::{'FM'[n % 2]}::{age}::{n}::48067\n" for n, age in enumerate(
             (1, 17, 18, 24, 25, 34, 35, 44, 45, 49, 50, 55, 56, 99), 1)),     # ends of brackets
         "movies.dat": "7::Star Wars: Épisode IV (1977)::Action|Sci-Fi\n8::Heat (1995)::Crime\n"}
OFFICIAL = {"u2.test": "10\t9\t1\t883\n"}
CSV = {"ratings.csv": "userId,movieId,rating,timestamp\n2,10,3.5,1\n1,9,.5,2\n",
       "movies.csv": 'movieId,title,genres\n9,"Été, ""L\' (1988)",Drama|War\n10,Babe,Comedy\n'}


def encoded(name, text):
    latin = name.startswith("u.") or name.endswith(".dat")
    return text if isinstance(text, bytes) else text.encode("latin-1" if latin else "utf-8")


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(name, text))
    return folder


def write_zip(path, top, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{top}/{name}", encoded(name, text))
    return path


def fail(*arguments, call=load, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pairs(R):
    return set(zip(R.users.tolist(), R.items.tolist(), R.values.tolist()))


def told(X, names):
    """Each row of X as text: the names of its columns, with their values if not 1."""
    return [" ".join(name if x == 1 else f"{x:g} {name}" for x, name in zip(row, names) if x)
            for row in X]


def test_ratings_are_sorted_and_typed_have_views_and_refuse_what_is_no_matrix():
    order = [4, 2, 6, 0, 5, 1, 3]
    R = Ratings(SEVEN.users[order], SEVEN.items[order], SEVEN.values[order], (5, 4))
    assert R.users.tolist() == [0, 0, 0, 1, 3, 3, 4] and R.items.tolist() == [0, 1, 3, 2, 0, 3, 2]
    assert R.users.dtype == R.items.dtype == np.int32 and R.values.dtype == np.float32
    assert R.counts.tolist() == [3, 1, 0, 2, 1] and R.starts.tolist() == [0, 3, 4, 4, 6, 7]
    keep = np.array([1, 0, 1, 1, 0, 1, 0], bool)
    for got, expected in [
            (R.T, Ratings(R.items, R.users, R.values, (4, 5))), (R.T.T, R),
            (R.where(keep), Ratings(R.users[keep], R.items[keep], R.values[keep], (5, 4))),
            (R.where(np.array([5, 0])), Ratings([0, 3], [0, 3], [5, 5], (5, 4))),
            (R.with_values(-R.values), Ratings(R.users, R.items, -R.values, (5, 4)))]:
        assert got.shape == expected.shape and pairs(got) == pairs(expected)
    assert np.shares_memory(R.with_values(R.values).users, R.users)          # as they are in order
    dense = np.array([[5, 3, 0, 4], [0, 0, 1, 0], [0, 0, 0, 0], [2, 0, 0, 5], [0, 0, 4, 0]])
    row, item, value = R.rows(np.array([3, 2, 0]))         # user 2 has no ratings
    assert row.tolist() == [0, 0, 2, 2, 2] and item.tolist() == [0, 3, 0, 1, 3]
    assert value.tolist() == [2, 5, 5, 3, 4]
    for size in (1, 2, 5, 9):
        blocks = [block for block, _ in R.blocks(size)]
        assert len(blocks) == -(-5 // size) and np.array_equal(np.vstack(blocks), dense)
    for users, items, values in [
            ([0, 5], [0, 0], [1, 2]), ([0, -1], [0, 0], [1, 2]), ([0], [4], [1]), ([0], [-1], [1]),
            ([0], [0], [np.nan]), ([2, 0, 2], [1, 0, 1], [1, 2, 3]), ([0, 1], [0, 1], [1])]:
        with pytest.raises(ValueError) as caught:
            Ratings(users, items, values, (5, 4))
        assert caught.type is ValueError                   # no DataError


# Loaders


@pytest.mark.parametrize("kind", ["folder", "file", "zip", "atomic", "crlf bom"])
def test_ml_100k_in_each_form(tmp_path, kind):
    files = ATOMIC if kind in ("atomic", "crlf bom") else ML_100K
    if kind == "crlf bom":
        files = {name: f"\ufeff{text}\n".replace("\n", "\r\n") for name, text in files.items()}
    if kind == "zip":
        write_zip(tmp_path / "ml-100k.zip", "ml-100k", {**files, **OFFICIAL, "README": "unread"})
    else:
        write(tmp_path / "ml-100k", {**files, **OFFICIAL})
    d = load(tmp_path / "ml-100k" / "u.data") if kind == "file" else load("ml-100k", tmp_path)
    assert d.name == ("u.data" if kind == "file" else "ml-100k")
    assert d.user_ids.tolist() == ["1", "2", "3", "10"] and d.item_ids.tolist() == ["9", "10", "11"]
    assert d.ratings.shape == (4, 3) and pairs(d.ratings) == {(0, 0, 5), (1, 1, 3), (3, 0, 1)}
    assert d.E.dtype == d.F.dtype == np.float32 and d.E_names == [
        *(f"age={a}" for a in (1, 18, 25, 35, 45, 50, 56)), "gender=F", "gender=M",
        "occupation=artist", "occupation=doctor", "occupation=none"]
    assert told(d.E, d.E_names) == [
        "age=1 gender=M occupation=artist", "age=35 gender=F occupation=doctor",
        "age=18 gender=F occupation=none", "age=56 gender=M occupation=artist"]
    assert told(d.F, d.F_names) == [
        "genre=Drama genre=War decade=1980", "genre=Comedy decade=1990", "genre=unknown"]
    assert d.titles[0].startswith("Été") and d.genres == ["Drama|War", "Comedy", "unknown"]
    assert d.years.tolist() == [1988, 1995, 0] and d.years.dtype == np.int32
    train, shown, target = official(d, 2)
    assert train.shape == target.shape == (4, 3) and shown is train       # as in the whole
    assert pairs(train) == {(0, 0, 5), (1, 1, 3)} and pairs(target) == {(3, 0, 1)}
    assert "u1.test: no such file; take it from ml-100k.zip of" in fail(d, 1, call=official)


def test_ml_1m(tmp_path):
    d = load("ml-1m", write(tmp_path / "ml-1m", ML_1M).parent)
    assert np.array_equal(d.E[:, :7], np.repeat(np.eye(7), 2, axis=0))
    assert told(d.E[:1], d.E_names) == ["age=1 gender=M occupation=academic/educator"]
    assert d.titles == ["Star Wars: Épisode IV (1977)", "Heat (1995)"] and official(d, 2) is None
    assert told(d.F, d.F_names) == [
        "genre=Action genre=Sci-Fi decade=1970", "genre=Crime decade=1990"]
    assert load(write(tmp_path / "10m", dict([*ML_1M.items()][::2]))).E.shape == (2, 0)  # no users


def test_csv_with_and_without_movies_and_users(tmp_path):
    d = load(write(tmp_path / "a", {**CSV, "users.csv": "userId,Gender,zip\n1,F,9\n2,M,8\n"}))
    assert d.ratings.values.tolist() == [0.5, 3.5] and d.titles == ['Été, "L\' (1988)', "Babe"]
    assert told(d.E, d.E_names) == ["gender=F", "gender=M"]                # no zip
    assert told(d.F, d.F_names) == ["genre=Drama genre=War decade=1980", "genre=Comedy"]
    text = 'rating,Item_ID,"USER"\n1,NA,u\n2, "a,\nb",u \n3,NA,v\n'     # a quoted newline
    d = load(write(tmp_path / "b", {"movies.csv": text}) / "movies.csv")
    assert d.name == "movies.csv" and d.item_ids.tolist() == ["NA", "a,\nb"] == d.titles
    assert d.F.shape == (2, 0) and d.genres == ["", ""] and d.years.tolist() == [0, 0]
    assert pairs(d.ratings) == {(0, 0, 1), (0, 1, 2), (1, 0, 3)} and d.E.shape == (2, 0)


@pytest.mark.parametrize("ids", [
    ["007", "7"], ["10", "9", "x"], ["-10", "-1", "01"], ["NULL", "None", "nan"], ["1", "1.0"],
    ["1", "9" * 20], [f"{n:05}" for n in range(20_000)]])  # pandas reads these in parts
def test_ids_of_files_stay_as_they_are_in_order(tmp_path, ids):
    values = {i: n for n, i in enumerate(reversed(ids))}
    rows = "".join(f"{i},{i},{n}{',' * 97}\n" for i, n in values.items())
    d = load(write(tmp_path, {"r.csv": f"user,item,rating{',x' * 97}\n{rows}"}) / "r.csv")
    assert d.user_ids.tolist() == d.item_ids.tolist() == d.titles == ids
    assert dict(zip(d.titles, d.ratings.values)) == values


def test_ratings_with_other_names_from_a_file_or_standard_input(tmp_path, monkeypatch):
    raw = b"who, movieId , rating,stars\n07, NA,9, 3.5\r\n07,8,9,4\n"
    path = write(tmp_path, {"r.csv": raw}) / "r.csv"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    names = {"who": "user", "stars": "rating"}
    for source in (str(path), "-"):
        table = read_ratings(source, names)
        assert table[data.RATED].to_dict("list") == {
            "user": ["07", "07"], "item": ["NA", "8"], "rating": [3.5, 4]}
        assert table["rating"].dtype == np.float64
    assert load(path, columns=names).ratings.values.tolist() == [4, 3.5]         # of 8 and NA
    assert "no column starz among who, movieId, rating, stars" in fail(path, columns={"starz": "x"})
    assert all("files of your own" in fail(x, columns=names) for x in ("ml-1m", "synthetic:3x4x5"))
    assert "r.csv: no column user among who, movieId, rating, stars" in fail(path)
    path.write_text("user,userId,item,rating\n1,2,3,4\n1,2,9,4\n1,2,3,5\n")
    assert "r.csv, line 4: user '2' rates item '3' twice; correct or delete it" in fail(
        path, {"userId": "user"}, call=read_ratings)
    assert "user '1' rates" in fail(path, call=read_ratings)      # the first one that fits


@pytest.mark.parametrize("files,name,old,new,message", [
    (ML_100K, "u.data", "\t5\t", "\tgood\t", "u.data, line 2: rating 'good' is not a number"),
    (ML_100K, "u.data", "882\n10\t", "882\t10\n", "u.data, line 2: 5 fields instead of 4; correct"),
    (ATOMIC, "x.inter", "2\t10", b"2\t\xff", "x.inter, line 2: not UTF-8 text; save it as UTF-8"),
    (ATOMIC, "x.inter", ATOMIC["x.inter"], "", "x.inter: no column user or item or rating among"),
    (ATOMIC, "x.user", "user_id", "who", "x.user: no column user among who:token, age:token, "),
    (CSV, "ratings.csv", "2,10", "2, ", "ratings.csv, line 2: item id is empty"),
    (CSV, "ratings.csv", "1,9", '1,"' + "9" * 140_000, "ratings.csv, line 3: 2 fields instead"),
    (CSV, "ratings.csv", "5,2", '5,"2', "ratings.csv: EOF inside string starting at row 2"),
    (CSV, "ratings.csv", CSV["ratings.csv"], "a;b\n1;2,5\n", "ratings.csv: no column user or"),
    ({**ML_100K, **OFFICIAL}, "u2.test", "\t9", "\t7",
     "u2.test, line 1: the data have no rating of item '7' by user '10'")], ids=count())
def test_mistakes_name_file_and_line(tmp_path, files, name, old, new, message):
    raw, old, new = (encoded(name, text) for text in (files[name], old, new))
    assert old in raw
    folder = write(tmp_path, dict(files, **{name: raw.replace(old, new, 1)}))
    assert f"{os.sep}{message}" in fail(folder, call=lambda folder: official(load(folder), 2))


# DataFrames


def frame(user=("b", "a", "b"), item=("x", "x", "y"), rating=(4.5, 3, 0.5), **more):
    return pd.DataFrame({"user": list(user), "item": list(item), "rating": list(rating), **more})


@pytest.mark.parametrize("users,expected", [
    ([10.0, 9, 10.0], [9, 10]), (["10", "9", "10"], ["9", "10"]), ([2.5, 10.0, 2.5], ["10", "2.5"]),
    ([1, "b.0 ", "1 "], ["1", "b.0"]), (pd.Categorical(["v", "u", "v"], list("uvw")), ["u", "v"]),
    (pd.array([3, 1, 3], "Int64"), [1, 3]), ([1, 2 ** 63, 1], ["1", str(2 ** 63)])])
def test_integer_ids_stay_integers_and_others_become_text(users, expected):
    table = frame(time=[3, 2, 1]).assign(user=users)
    before = table.copy()
    d = to_dataset("mine", table)
    assert d.user_ids.tolist() == expected and d.item_ids.tolist() == ["x", "y"] == d.titles
    assert d.ratings.counts.sum() == 3 and d.user_ids.dtype.kind in ("U", "i")
    assert d.E.shape == d.F.shape == (2, 0) and d.E.dtype == d.F.dtype == np.float32
    pd.testing.assert_frame_equal(table, before)


def test_users_of_a_table_become_columns():
    users = pd.DataFrame({
        "city": ["Rom", None, "Bonn", "Rom"], "age": [20, "?", np.nan, "60.5"],
        "user": ["a", "b", "z", " c "], "vip": [1, 0, 1, np.nan], "a|b": ["c|d", "", "c", " c"]})
    d = to_dataset("mine", frame(user=["b", "a", "new"]), users)
    assert d.user_ids.tolist() == ["a", "b", "c", "new", "z"]     # also one who rated nothing
    assert told(d.E, d.E_names) == [
        "age=18 city=Rom vip=1 a|b=c|d", "vip=0", "age=56 city=Rom a|b=c",
        "0.25 age=18 0.25 age=56 0.25 city=Bonn 0.5 city=Rom 0.25 vip=0 0.5 vip=1 "
        "0.5 a|b=c 0.25 a|b=c|d", "city=Bonn vip=1 a|b=c"]
    nobody = to_dataset("mine", frame(), users.assign(age=[None, -1, 1960, 1e9])[["user", "age"]])
    assert nobody.E.shape == (4, 0) and nobody.E_names == []      # no age is known


def test_items_of_a_table_become_columns():
    items = pd.DataFrame({
        "item": [9, 8, 7, 6, 4, 3, 2], "genres": ["Crime|War", "War", np.nan, "", "", "", ""],
        "title": ["Heat", "Babe (1995)", None, "", "Ran (1996)", "2010 (2001) (1968)", "2001"],
        "year": [1995.0, np.nan, 2001, 946684800, "c19850601", "unkonwn", ""]})
    d = to_dataset("mine", frame(item=[9, 5, 8]), items=items)
    assert d.item_ids.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert d.titles == ["2001", "2010 (2001) (1968)", "Ran (1996)", "5", "6", "7", "Babe (1995)",
                        "Heat (1995)"]
    assert d.genres[5:] == ["", "War", "Crime|War"]
    assert d.years.tolist() == [0, 1968, 1985, 0, 0, 2001, 1995, 1995]
    assert told(d.F, d.F_names) == ["", "decade=1960", "decade=1980", "", "", "decade=2000",
                                    "genre=War decade=1990", "genre=Crime genre=War decade=1990"]


@pytest.mark.parametrize("tables,message", [
    ([frame()[["item"]]], "ratings: no column user or rating among item; rename it, use --columns"),
    ([frame()[:0]], "ratings: no ratings"),
    ([frame(user=["a", None, "b"])], "ratings, row 1: user id is empty; correct or delete it"),
    ([frame(rating=[1, "x", None])], "ratings, row 1: rating 'x' is not a number between -1e10"),
    ([frame(rating=[False, True, True])], "ratings, row 0: rating False is not a number"),
    ([frame(rating=[1, 2, np.nan])], "ratings, row 2: rating nan is not a number"),
    ([frame(rating=pd.to_datetime([1, 2, 3]))], "ratings, row 0: rating Timestamp("),
    ([frame(rating=[-1e10, 1, 2])], "ratings, row 0: rating -10000000000.0 is not a number"),
    ([frame(), frame()], "users, row 2: user 'b' is listed twice"),
    ([frame(user=[1, 2, 1]), frame()], "users: none of the rated users, such as 1, is among ["),
    ([frame(), None, pd.DataFrame({"item": []})], "items: none of the rated items, such as 'x', "),
    ([frame(), None, pd.DataFrame({"item": ["x"], "genres": [["War"]]})], "items, row 0: genres ["),
    ([frame(), pd.DataFrame({"user": [*map(str, range(1000)), "a"], "zip": range(1001)})],
     "column zip has more than 1000 values; leave it out")])
def test_mistakes_in_tables(tables, message):
    assert fail("mine", *tables, call=to_dataset).startswith(message)


# Folds


def test_folds_share_out_ratings_or_users(small):
    R = small.ratings
    basic, realtime, published = ([split(R, test, fold, seed=3) for fold in range(1, 6)]
                                  for test in ("basic", "realtime", "published"))
    for train, profile, target in basic + published:
        assert profile is train and pairs(train) == pairs(R) - pairs(target)
    assert set().union(*(pairs(target) for _, _, target in basic)) == pairs(R)
    counts = np.array([target.counts for _, _, target in basic])
    assert (counts.sum(0) == R.counts).all() and (counts.max(0) - counts.min(0) <= 1).all()
    assert counts.sum(1).min() > 0.8 * len(R) / 5           # also over users with few ratings
    assert pairs(published[2].target) == pairs(split(R, "published", 1, 5).target) == pairs(
        R.where(np.random.default_rng(5).permutation(900) < 90))
    new = [set(target.users.tolist()) for _, _, target in realtime]
    assert set().union(*new) == set(R.users.tolist()) and {len(users) for users in new} == {12}
    for (train, profile, target), users in zip(realtime, new):
        assert not users & set(train.users.tolist()) and set(profile.users.tolist()) <= users
        assert pairs(train) | pairs(profile) | pairs(target) == pairs(R)
        assert all(target.counts[u] == max(1, round(R.counts[u] / 5)) for u in users)
        assert (profile.counts + target.counts + train.counts == R.counts).all()
    ones = Ratings(np.arange(0, 400, 2), np.zeros(200), np.ones(200), (400, 1))     # one or none
    for test in ("basic", "realtime"):                     # the only one is a target
        targets = [len(split(ones, test, fold, 0).target) for fold in range(1, 6)]
        assert min(targets) > 20 and sum(targets) == 200


def test_folds_and_ranks_are_of_pairs_nested_and_stay_the_same():
    R = synthetic(60, 80, 900, seed=1).ratings
    two, five = (R.where(R.ranks(np.random.default_rng(3)) < n) for n in (2, 5))
    assert pairs(two) < pairs(five) and five.shape == R.shape
    assert np.array_equal(five.counts, np.minimum(R.counts, 5))
    other = R.with_values(R.values % 5 + 1)                # which do not count; nor may the version
    found = [split(other, test, 2, 7).target for test in ("basic", "realtime")]
    raw = b"".join((r.users.astype(np.int64) * 80 + r.items).astype("<i8").tobytes()
                   for r in [*found, other.where(other.ranks(np.random.default_rng(7)) < 2)])
    assert hashlib.md5(raw).hexdigest() == "3f6d3804c92c09b5e4e76f25e5368ddb"


def network(monkeypatch, site=OSError("no network here"), wheel=None):
    """Stands in for the network: what the site and pip send, bytes or an error."""
    def urlopen(url, timeout):
        assert url.startswith("https://files.grouplens.org/") and 0 < timeout < 60
        return io.BytesIO(site) if isinstance(site, bytes) else stop(site)()

    def pip(command, check, **_):
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"] and check
        assert command[-1] == "recbole==1.2.1"
        if wheel is None:
            raise subprocess.CalledProcessError(1, "pip download")
        Path(command[command.index("--dest") + 1], "recbole.whl").write_bytes(wheel)
    monkeypatch.setattr(data.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(data.subprocess, "run", pip)


@pytest.mark.parametrize("source", data.SOURCES["ml-100k"])
def test_archive_is_fetched_checked_and_kept(tmp_path, monkeypatch, capsys, source):
    home = tmp_path / "home"
    if source.startswith("recbole"):
        files = {name.replace("x.", "ml-100k."): text for name, text in ATOMIC.items()}
        raw = write_zip(tmp_path / "whl", "recbole/dataset_example/ml-100k", files).read_bytes()
        network(monkeypatch, data.HTTPException(), raw)
    else:
        raw = write_zip(tmp_path / "zip", "ml-100k", ML_100K).read_bytes()
        network(monkeypatch, raw)
    md5 = data.SOURCES["ml-100k"][source]
    assert f"{source} (its MD5 is not {md5})" in fail("ml-100k", home) and not home.exists()
    monkeypatch.setitem(data.SOURCES["ml-100k"], source, hashlib.md5(raw).hexdigest())
    write(home / "ml-100k", {"notes.txt": "a folder without a known file is as if not there"})
    assert len(load("ml-100k", home, progress=True).ratings) == 3
    assert sorted(os.listdir(home)) == ["ml-100k", "ml-100k.zip"]
    assert f"fetching it from {source}" in capsys.readouterr().err
    network(monkeypatch)
    assert load("ml-100k", home).E.shape == (4, 12)
    assert re.search(f"tried {tmp_path}/ml-100k, {tmp_path}/ml-100k.zip, https://files.group.* "
                     ".no network here., recbole==1.2.1 .Command 'pip download' .*; put ml-100k"
                     f".zip from .* in {tmp_path}, or use --da", fail("ml-100k", tmp_path))
    assert "recbole" not in fail("ml-1m", home) and len(os.listdir(home)) == 2


def test_damaged_archives(tmp_path):
    raw = bytearray(write_zip(tmp_path / "ml-100k.zip", "ml-100k", ML_100K).read_bytes())
    raw[45:60] = bytes(15)                                  # inside the first member
    other = write_zip(tmp_path / "other", "other", ML_100K).read_bytes()
    for damaged, message in ((raw[:-40], "File is not a zip file"), (raw, "Bad CRC-32 for file"),
                             (other, "no ratings below ml-100k/")):
        (tmp_path / "ml-100k.zip").write_bytes(damaged)
        found = fail("ml-100k", tmp_path)
        assert f"ml-100k.zip: {message}" in found and found.endswith("; delete it and load again")


def test_write_whole_writes_all_or_nothing(tmp_path):
    os.symlink(tmp_path / "x", tmp_path / "link")
    for path, text in (("x", "a"), ("x", "é\n"), ("link", "old")):    # new, old, through a link
        for content in (text, lambda part: part.write_bytes(text.encode())):
            write_whole(tmp_path / path, content)
            assert (tmp_path / "x").read_bytes() == text.encode()
            assert os.path.islink(tmp_path / "link") and len(os.listdir(tmp_path)) == 2
    for error, raised, message in (
            (OSError(28, "No space left on device"), DataError, "x: No space left on device; choo"),
            (DataError("line 3"), DataError, "^line 3$"),
            (KeyboardInterrupt("end"), KeyboardInterrupt, "end")):
        with pytest.raises(raised, match=message):
            write_whole(tmp_path / "x", lambda part: part.write_bytes(b"half") and stop(error)())
        assert (tmp_path / "x").read_text() == "old" and len(os.listdir(tmp_path)) == 2
    assert "x/y: " in fail(tmp_path / "x" / "y", "", call=write_whole)  # x is a file


def test_output_path_protects_inputs(tmp_path):
    folder = write(tmp_path / "in", {**CSV, "users.csv": ""})
    os.symlink(folder / "movies.csv", tmp_path / "link.csv")
    assert output_path(write(tmp_path, {"movies.csv": ""}) / "movies.csv", folder)    # not in it
    for path in (folder / "movies.csv", folder / "users.csv", tmp_path / "link.csv"):
        for given in (folder, folder / "movies.csv", folder / "ratings.csv"):
            assert f"{path}: would overwrite an" in fail(path, "ml-1m", given, call=output_path)
    for path in (folder, tmp_path / "none" / "m.npz", "-", os.devnull):
        assert "cannot be written; choose another file" in fail(path, folder, call=output_path)


def test_synthetic_data_are_as_asked_for_and_stay_the_same_from_version_to_version():
    d = load("synthetic:60x80x900", seed=1)
    assert d.ratings.shape == (60, 80) and len(d.ratings) == 900 and d.user_ids[-1] == "60"
    assert set(d.ratings.values) == {1, 2, 3, 4, 5} and d.titles[3] == f"Item 4 ({d.years[3]})"
    arrays = (d.ratings.users, d.ratings.items, d.ratings.values, d.E, d.F)
    raw = b"".join(array.tobytes() for array in arrays)
    text = "".join(d.titles + d.E_names + d.F_names)
    assert hashlib.md5(raw + text.encode()).hexdigest() == "53a6a9b56d507b4b94ca992b39d7ac97"
    R = load("synthetic", seed=5).ratings                   # like ML-100k
    assert R.shape == (943, 1682) and len(R) == 100_000
    assert np.sort(R.counts)[-188:].sum() > 0.4 * len(R)    # a fifth of the users
    assert len(synthetic(5, 4, 20).ratings) == 20
    assert "give between 1 and users x items" in fail(3, 4, 13, call=synthetic)


ROOT = Path(experiments.__file__).parent


def stop(error):
    """A function that raises an error, whatever its arguments."""
    def stopping(*_, **__):
        raise error
    return stopping


def tiny(used):
    """Settings quick to train; the penalties and what follows training are as they are."""
    sizes = dict(n_factors=4, hidden=(8,), svd_rows=2, batch=16, epochs=2)
    # one layer; else n_factors is what LFG's is, and l2 what BiasSVD's is
    special = {"Mult-VAE": {"hidden": 8}, "LFG-dual": {"seeds": 2}, "LFG-rank": {"seeds": 2},
               "LFG (paper)": {"n_factors": 3}, "SVD++ fold-in": {"l2": 6.0}}
    quick = {}
    for name, setting in used.items():
        known = getattr(settings.CLASSES.get(name), "__dataclass_fields__", ())
        sized = {key: n for key, n in sizes.items() if key in known}
        quick[name] = {**setting, **sized, **special.get(name, {})}
    return quick


QUICK = {key: tiny(used) for key, used in SETTINGS.items()}


def arrays(thing, path="model"):
    """{path: array} of all that can be reached from a model."""
    if isinstance(thing, (np.ndarray, np.number, int, float)):
        return {path: np.array(thing)}
    if isinstance(thing, (list, tuple)):
        thing = dict(enumerate(thing))
    elif not isinstance(thing, dict):
        thing = {} if callable(thing) else getattr(thing, "__dict__", {})
    return {k: v for key, value in thing.items() for k, v in arrays(value, f"{path}.{key}").items()}


def differing(a, b):
    """Paths at which two results of arrays have not the same bits, seconds of training aside."""
    assert a.keys() == b.keys() and len(a) > 1
    return [path for path in a if a[path].tobytes() != b[path].tobytes() and "seconds" not in path]


def same(a, b):
    return len(a) == len(b) > 0 and all(np.array_equal(x, y) for x, y in zip(a, b))


def exit_of(capsys, run, *arguments):
    """Exit code, stdout and stderr of a command line in this process."""
    with pytest.raises(SystemExit) as caught:
        run([str(a) for a in arguments])
    return (caught.value.code, *capsys.readouterr())


def run_experiments(argv):
    serve.run_command("experiments.py", experiments.run, argv, "interrupted; folds are above")


@pytest.fixture
def cli(small, monkeypatch, capsys, tmp_path):
    """cli(arguments...) -> exit code, stdout, stderr of experiments.py on cli.data, quick."""
    def run(*arguments):
        return exit_of(capsys, run_experiments, *arguments)

    def load_small(name, *more):
        return replace(run.data, name=name) if name in run.names else load(name, *more)

    run.data = small
    run.names = ["synthetic", "ml-100k", "ml-1m", "xml-1m"]
    run.json = tmp_path / "json"
    monkeypatch.setattr(experiments, "load", load_small)
    monkeypatch.setattr(settings, "SETTINGS", QUICK)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)     # one core
    monkeypatch.setattr(experiments, "COUNTS", (0, 2, 8))   # its users have 15 ratings
    return run


def one_line(done, name):
    """The one line that a command which ends with code 2 prints."""
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(name), err
    return err


# Experiments


NAMES = {test: [c for added in models.values() for c in added] for test, models in COLUMNS.items()}
CASES = [(test, column) for test in NAMES if test != "published" for column in NAMES[test]]
OPTIONS = [test for test in COLUMNS if test != "coldstart topn"]           # which has two tables
TUNED = [case for case in CASES if case[0] in OPTIONS and case[1][0] not in "μP"]    # not averages


def printed(cli, test, *more, dataset="synthetic"):
    """stdout and JSON objects of a test with seed 7."""
    done = cli("--dataset", dataset, "--test", test, "--seed", 7, "--json", cli.json, *more)
    assert done[::2] == (0, "")
    return done[1], json.loads(cli.json.read_text())


def rows_of(out):
    """The cells of each line of the tables on stdout."""
    return [[cell.strip() for cell in line[1:-1].split("|")]
            for line in out.splitlines() if line.startswith("|")]


def check_layout(out, title, measure="RMSE, lower is better"):
    """A title that names the measure once, and a narrow Markdown table; its header and rows."""
    assert all(len(line) <= 100 for line in out.splitlines()) and out.count(measure) == 1
    heading, table, *_ = out.split("\n\n")
    assert " ".join(heading.split()) == f"{title} ({measure})"
    lines = table.splitlines()
    assert re.fullmatch(r"\|-+\|(-+:\|)+", lines[1])
    assert len({tuple(n for n, c in enumerate(line) if c == "|") for line in lines}) == 1
    header, _, *rows = rows_of(table)
    return header, rows


def texts(values):
    return [f"{value:.4f}" for value in values]


def seconds_of(table, name):
    return f"{sum(f['seconds'][name] for f in table['folds']):.1f}"


def parts_of(d, test, fold=2, seed=7):
    """Training part, profiles and target of a fold; of new items, with items for users."""
    R = d.ratings.T if test == "newitem" else d.ratings
    return split(R, test if test in ("basic", "published") else "realtime", fold, seed)


def with_ratings(d, chosen, value):
    """The data set with another value of some ratings, which may have items for users."""
    chosen = chosen.T if chosen.shape == d.ratings.shape[::-1] else chosen
    at = np.isin(d.ratings.users * 40 + d.ratings.items, chosen.users * 40 + chosen.items)
    assert d.ratings.shape[1] == 40 and at.sum() == len(chosen) > 0
    return replace(d, ratings=d.ratings.with_values(np.where(at, value, d.ratings.values)))


@pytest.fixture
def folds(monkeypatch):
    """List to which each Fold that is made is added."""
    folds = []
    made = experiments.Fold
    monkeypatch.setattr(experiments, "Fold", lambda *a: folds.append(made(*a)) or folds[-1])
    return folds


def run_recorded(cli, folds, test, column, d, tune=False):
    """Figures, fitted models and predictions, or scores, of fold 1 of one column, of seed 7."""
    folds.clear()
    cli.data = d
    _, (table,) = printed(cli, *["tune", "--of", test] if tune else [test.split()[0], "--folds", 1])
    found = [row.get("rmse", row) for row in table["grid"]] if tune else np.ravel(
        table["average"][column]).tolist()
    found = [one["NDCG@100"] for one in found] if "topn" in test else found
    every = np.arange(folds[0].inputs[0].shape[0])
    asked = [(model, fold.data.E, *case[1:]) for fold in folds for model in fold.models.values()
             for case in fold.cases]
    predicted = [model.scores(every, profile, E)[target.users, target.items] if "topn" in test
                 else model.predict(target.users, target.items, profile, E)
                 for model, E, profile, target in asked]
    return found, [model for fold in folds for model in fold.models.values()], predicted


def all_same(models, others):
    assert len(models) == len(others) > 0
    return not any(differing(arrays(a), arrays(b)) for a, b in zip(models, others))


def check_parts(model, test, column):
    """Type, part and settings of the model of a column: what the contract's tests start from."""
    used = QUICK["ml-100k", test]
    part, = getattr(model, "models", [getattr(model, "model", model)])
    name = "BiasSVD" if "μ" in column else column.replace(" fold-in", "")
    solved = {"LFG-rank item": LFGRankItem,                # networks that generate columns of R
              "LFG" if test == "newitem" else "LFG-item": LFGItem}
    Solved = FoldIn if "fold-in" in column else solved.get(column, type(part))
    assert (type(part), type(model), part.seed) == (settings.CLASSES[name], Solved, 7)
    assert used[name].items() <= vars(part).items()
    if model is not part:
        ridge = {"centre": getattr(part, "implicit_row", None), **used[f"{name} fold-in"]}
        assert {key: ridge[key] for key in ridge if key != "known"}.items() <= vars(model).items()


@pytest.mark.parametrize("test,column,tune", [(*case, False) for case in CASES]
                         + [(*case, True) for case in TUNED])
def test_no_test_rating_leaks_into_training(cli, monkeypatch, folds, small, test, column, tune):
    only = {of: {"x": [column] * (of == test)} for of in COLUMNS}
    monkeypatch.setattr(experiments, "COLUMNS", only)
    run = partial(run_recorded, cli, folds, test, column, tune=tune)
    outer = parts_of(small, test, 1)
    scored = split(outer.train, "basic" if test == "basic" else "realtime", 1, 7) if tune else outer
    rmse, models, predicted = run(small)
    if column not in settings.JOINED:
        check_parts(models[0], test, column)
    parts = [scored.target, outer.target][:1 + tune]
    if tune and test == "topn":                            # has three validation parts, which train
        parts = parts[1:]                                  # each other
    for part in parts:
        again = run(with_ratings(small, part, 5 if "topn" in test else 3))     # 5: all liked
        assert all_same(models, again[1]) and same(predicted, again[2])
        if part is not scored.target:                       # validation does not look at test
            assert again[0] == rmse
        elif "topn" in test:
            assert again[0] != rmse
        else:
            scale = scored.train.values                     # and yet the score sees them
            clipped = [p.clip(scale.min(), scale.max()) for p in predicted]
            each = np.sqrt([np.mean((p - 3) ** 2) for p in clipped])
            each = np.reshape(each, (len(rmse), -1)).mean(1)    # tune averages over the counts
            assert again[0] == pytest.approx(each.tolist())
            assert np.abs(np.subtract(rmse, again[0])).min() > 0.01
    if test != "basic":                                    # nor does what is new train anything
        changed = with_ratings(small, outer.profile, 2)
        side = "F" if test == "newitem" else "E"
        new = np.isin(np.arange(outer.train.shape[0]), outer.target.users)
        changed = replace(changed, **{side: np.where(new[:, None], 7, getattr(small, side))})
        assert all_same(models, run(changed)[1])


@pytest.mark.parametrize("test", OPTIONS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_lfg_dual_and_rank_average_parts_trained_once_a_fold(cli, monkeypatch, folds, test, seeds):
    names = COLUMNS["topn"]["lfg-rank"] if test == "topn" else ["LFG", "LFG-item", "LFG-dual"]
    monkeypatch.setattr("time.process_time", count().__next__)
    used = QUICK["ml-100k", test][names[2]]
    monkeypatch.setitem(used, "user_weight", 0.4)          # 0.5 would not tell users from items
    printed(cli, test, "--folds", 2, 4, "--seeds", seeds)
    for fold in folds[:3:2] if test == "coldstart" else folds:
        trained = [(name, seed) for name, _, seed in fold.trained]
        assert len(set(trained)) == len(trained)
        user, item, joined = (fold.models[name] for name in names)
        weights = [0.4, used.get("empty_weight", 0.4)]
        if test == "newitem":
            several, weights = joined.forward, [1 - weight for weight in weights]
            assert joined.solved == [user] and several[0] is item
            assert [model.seed for model in user.models] == [7]
        else:
            assert joined.forward == [user] and user.seed == 7
            several = joined.solved[0].models
            assert item.models == several[:1] and joined.solved[0].kept == used.get("kept")
        assert list(joined.weights) == weights
        assert [model.seed for model in several] == [*range(7, 7 + seeds)]
        # a second for each part, and for what is solved around it or joins it
        assert [user.seconds, joined.seconds] == [1 + (test == "newitem"), 3 + seeds]


@pytest.mark.parametrize("test,column", [
    ("basic", "SVD++"), ("realtime", "SVD++ fold-in"), ("published", "SVD++")])
def test_the_ensemble_scores_the_mean_of_as_many_seeds_of_svdpp(cli, folds, test, column):
    command = [cli, test, "--folds", 2, 3, "--seeds", 3, "--models"]
    out, (table,) = printed(*command, "svdpp", "lfg-dual")
    what = f"{column}, mean over 3 seeds"
    for fold, found in zip(folds, table["folds"]):
        models = fold.models[what].forward
        assert models[0] is fold.models[column]
        assert [getattr(model, "model", model).seed for model in models] == [7, 8, 9]
        averaged = SimpleNamespace(predict=lambda *pairs: np.mean(
            [model.predict(*pairs) for model in models], 0))
        rmse = experiments.rmse_of(averaged, fold.cases[0], cli.data.E)
        assert found["ensemble"] == {what: pytest.approx(rmse)}
    mean = np.mean([found["ensemble"][what] for found in table["folds"]])
    assert table["ensemble"] == {what: pytest.approx(mean)}
    assert table["models"] == list(table["average"]) == [column, "LFG-dual"]
    assert f"\n\n{what}: RMSE {mean:.4f}\n\n" in out
    for models in (["svdpp", "lfg-item"], ["biassvd", "lfg-dual"]):
        assert "seeds" not in printed(*command, *models)[0]


def test_settings_are_the_nearest_in_size_and_larger_data_have_fewer_epochs(small, monkeypatch):
    # 316,000 lies between: 100,000 * 3.16 and 1,000,000 / 3.16
    nearest = {1000: "ml-100k", 300_000: "ml-100k", 330_000: "ml-1m", 20_000_000: "ml-1m"}
    for test in COLUMNS:
        for n, name in nearest.items():
            used = SETTINGS[name, test]
            assert settings.settings_for(n, test) == used != settings.settings_for(n, test, 9)
            assert settings.settings_for(n, test, 9)["LFG-dual"] == {**used["LFG-dual"], "seeds": 9}
    made = record(serve, "Models", monkeypatch.setattr)
    monkeypatch.setattr(settings, "fit", stop(KeyError))   # before anything is trained
    for n, items, users in (1000, 40, 30), (450, 20, 15), (9, 10, 8):
        monkeypatch.setitem(settings.SIZES, "ml-1m", n)    # small has 900
        with pytest.raises(KeyError):
            serve.train_model(small, "dual", None, 3, 1, 0, True, 1, None)
        assert [one.epochs for one in made[-1][1].trained.values()] == [users, items] * 2 + [items]


def test_cold_start_shows_so_many_ratings_of_the_same_users():
    R = synthetic(60, 120, 4000, seed=2).ratings
    for fold in range(1, 6):
        cases = cases_of(R, "coldstart", fold, 7)
        train, *shown = split(R, "realtime", fold, 7)
        steady = shown[0].counts >= 50                     # some have just enough
        profile, target = (part.where(steady[part.users]) for part in shown)
        assert len(cases) == len(COUNTS) and 0 < len(target) < len(shown[1])
        for size, case in zip(COUNTS, cases):
            expected = train, profile.where(profile.ranks(np.random.default_rng(7)) < size), target
            assert [*map(pairs, case)] == [*map(pairs, expected)]


@pytest.mark.parametrize("key", [key for key in SETTINGS if key[1] in ("basic", "realtime")])
def test_choices_lead_from_the_paper_to_the_settings_in_use(key):
    used = SETTINGS[key]
    *made, (_, mean), last = choices(used).values()
    assert [made[1], made[8], made[11], last] == [
        (name, used) for name in ("LFG (paper)", "LFG", "LFG-item", "LFG-dual")]
    assert mean == {**used, "LFG-dual": {**used["LFG-dual"], "user_weight": 0}}
    each = [vars(settings.CLASSES[name](**s[name])) for name, s in made]
    diff = [{k for k in a if a[k] != b.get(k)} - {"fill_mu"} for a, b in zip(each, each[1:])]
    assert diff[:5] == [{"own_mean"}, {"own_mean", "start"}, {"start"}, {"dropout"}, {"l2", "l2_M"}]
    assert {"hidden"} < diff[5] <= {"hidden", "epochs", "rate", "batch", "svd_rows"}
    assert diff[6:8] == [{"n_factors"}, {"mask"}] and diff[9:] == [{"mask", "shown_weight"}, set()]
    centres = [s["LFG-item fold-in"].get("centre") for _, s in made]
    assert [centre is not None for centre in centres] == [False] * 9 + [True] * 2 + [False]
    assert np.array_equal(centres[9]([4, 5]), np.zeros(201))


def test_differences_worked_by_hand():
    assert experiments.T_975 == {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, folds - 1
    # differences -0.02, -0.04: mean -0.03, variance 0.0002; n_held / n_train 0.25, 0.35: mean 0.3
    # half = 12.706 sqrt((1 / 2 + 0.3) * 0.0002) = 12.706 sqrt(0.00016) = 0.16072
    folds = [{"n_train": 100, "n_held": 25, "rmse": {"LFG": 0.9, "SVD": 1, "LFGb": 0.98}},
             {"n_train": 100, "n_held": 35, "rmse": {"LFG": 1.4, "SVD": 1.5, "LFGb": 1.46}}]
    assert differences(folds) == [{                         # of the last, not of the best
        "model": "LFGb", "baseline": "SVD", "measure": "RMSE", "mean": pytest.approx(-0.03),
        "interval": pytest.approx([-0.19072, 0.13072], abs=1e-5)}]
    assert differences(folds[:1]) == []                     # of one fold there is no interval
    lists = [{"n_train": 9, "n_held": 2, "metrics": {
        name: {"NDCG@10": 0, "NDCG@100": 0.1 * n} for n, name in enumerate(["EASE", "LFG"])}}] * 2
    assert [(d["measure"], d["mean"]) for d in differences(lists)] == [("NDCG@100", 0.1)]
    for rows, compared in (
            ("SVD, BiasSVD, BiasSVD x, LFG-item, LFG (paper), LFG",
             "LFG SVD, LFG BiasSVD, LFG BiasSVD x, LFG (paper) BiasSVD, LFG (paper) BiasSVD x"),
            ("LFG, LFG-item", ""), ("SVD, LFG (paper)", ""), ("SVD, BiasSVD", "")):
        found = differences([{**folds[0], "rmse": dict.fromkeys(rows.split(", "), 1)}] * 2)
        assert ", ".join(f"{d['model']} {d['baseline']}" for d in found) == compared


TABLES = [                                                  # data, test, title, paper
    ("ml-100k", "basic", "Table 1: LFG Rating Prediction", [0.9404, 0.9136, 0.9130]),
    ("ml-1m", "basic", "Table 2: LFG Rating Prediction", [0.8672, 0.8607, 0.8566]),
    ("ml-100k", "realtime", "Table 3: LFG Real-Time Rating Prediction", [1.1274, 1.0305, 0.9255]),
    ("ml-1m", "realtime", "Table 4: LFG Real-Time Rating Prediction", [1.1151, 0.9835, 0.8837]),
    ("synthetic", "basic", "LFG Rating Prediction", None), ("ml-1m", "newitem", "New Items,", None)]


@pytest.mark.parametrize("dataset,test,title,paper", TABLES)
def test_a_table_is_markdown_and_json_holds_the_same(cli, dataset, test, title, paper):
    out, (table,) = printed(cli, test, dataset=dataset)
    paper = paper and dict(zip(["SVD", "BiasSVD", "LFG (paper)"], paper))
    name = dataset.replace("ml-", "MovieLens-")
    header, rows = check_layout(out, f"{title} 5-Fold Cross-Validation Results on {name}")
    average, folds, found = table["average"], table["folds"], table["differences"]
    assert average == {name: pytest.approx(np.mean([f["rmse"][name] for f in folds]))
                       for name in NAMES[test]}
    assert ",".join(header) == ("Model,Fold 1,Fold 2,Fold 3,Fold 4,Fold 5,Average,"
                                + "Paper," * bool(paper) + "Seconds")
    assert rows == [[name, *texts([*(f["rmse"][name] for f in folds), average[name]]),
                     *([f"{paper[name]:.4f}" if name in paper else ""] if paper else []),
                     seconds_of(table, name)] for name in NAMES[test]]
    parts = [parts_of(cli.data, test, n) for n in range(1, 6)]
    assert [(f["fold"], f["n_held"], f["n_test"]) for f in folds] == [
        (n, len(cli.data.ratings) - len(s.train), len(s.target)) for n, s in enumerate(parts, 1)]
    about = {"table": int(title[6]) if paper else None, "dataset": dataset, "test": test, "seed": 7,
             "models": NAMES[test], "paper": paper}
    assert {key: table[key] for key in about} == about
    assert len(found) > 1 and found == differences(folds)
    assert [line for line in out.splitlines() if line.startswith("- ")] == [
        "- {} minus {}: RMSE {:+.4f}, 95 % interval {:+.4f} to {:+.4f}".format(
            d["model"], d["baseline"], d["mean"], *d["interval"]) for d in found]


def test_published_are_the_official_splits_or_a_tenth_of_all(cli, tmp_path, monkeypatch, folds):
    plain, cli.data = cli.data, replace(cli.data, folder=tmp_path)
    command = [cli, "published", "--models", "svd"]
    assert "u1.test: no such file" in one_line(cli("--test", "published"), "experiments.py")
    assert folds == []                                      # told before anything is trained
    official_splits = [split(plain.ratings, "basic", n, 1) for n in range(1, 6)]
    monkeypatch.setattr(experiments, "official", lambda d, n: d.folder and official_splits[n - 1])
    title = "Public Protocol Results on MovieLens-"
    out, (table,) = printed(*command, dataset="ml-100k")
    header, rows = check_layout(out, f"{title}100k, folds 1, 2, 3, 4, 5")
    assert header[-2:] == ["Average", "Seconds"] and rows[0][0] == "SVD"
    assert "report on u1; ours read no dates:\n\n- 0.905 GC-MC (arXiv" in out and "best test" in out
    assert all(fold.cases == [given] for fold, given in zip(folds, official_splits))
    cli.data = plain
    for more, which in (([], "fold 1"), (["--folds", 1, 3], "folds 1, 3")):
        out, (table,) = printed(*command, *more, dataset="ml-1m")
        check_layout(out, f"{title}1m, {which}")
        assert "- 0.8140 myFM with dates, ordered" in out and "interval" not in out     # one row
        assert {(f["n_train"], f["n_test"]) for f in table["folds"]} == {(810, 90)}
    out, _ = printed(*command, dataset="xml-1m")
    assert out.startswith("Public Protocol Results on xml-1m, fold 1\n") and "report" not in out


def test_all_is_four_tables_in_the_papers_order(cli, monkeypatch):
    out, tables = printed(cli, "all", "--folds", 2, dataset="all")
    titles = re.findall("(Table .*) Results on MovieLens-(1.*), fold 2", out)
    assert titles == [(title, name[3:]) for name, _, title, _ in TABLES[:4]]
    assert [table["table"] for table in tables] == [1, 2, 3, 4]
    monkeypatch.setattr(data, "_load_files", stop(DataError("cannot get ml-1m")))
    cli.names.remove("ml-1m")                               # told before anything is trained
    assert "cannot get ml-1m" in one_line(cli("--dataset", "all"), "experiments.py")


def test_the_same_seed_prints_the_same_digits_and_each_fold_depends_on_itself(cli):
    def digits(*more):
        return [row[:-1] for row in rows_of(printed(cli, "basic", *more)[0])]      # no seconds

    whole = digits()
    few = digits("--folds", 4, 2, 4, "--models", "lfg", "svd")
    assert digits() == whole != digits("--seed", 6)
    assert few[0][:4] == ["Model", "Fold 2", "Fold 4", "Average"]
    assert [row[:3] for row in few[2:]] == [row[:5:2] for row in whole if row[0] in ("SVD", "LFG")]


@pytest.mark.parametrize("test,models,columns", [
    ("basic", "", "SVD, BiasSVD, SVD++, LFG (paper), LFG, LFG-item, LFG-dual"),
    ("realtime", "lfg-dual biassvd svdpp", "BiasSVD, BiasSVD fold-in, SVD++ fold-in, LFG-dual"),
    ("newitem", "", "μ + bu, BiasSVD fold-in, LFG, LFG-item, LFG-dual"),
    ("coldstart", "svd biassvd", "μ + bi, BiasSVD fold-in")])
def test_models_are_those_asked_for(cli, test, models, columns):
    out, _ = printed(cli, test, "--folds", 1, *["--models"] * bool(models), *models.split())
    assert ", ".join(row[0] for row in rows_of(out)[2:]) == columns


@pytest.mark.parametrize("test,title,measure,header,values", [
    ("coldstart", "Cold Start by Ratings in the Profile", "RMSE, lower is better",
     ["Ratings shown", "0", "2", "8"], list),
    ("coldstart topn", "Lists by Ratings in the Profile", "NDCG@10, higher is better",
     ["Ratings shown", "0", "2", "8"], lambda cases: [one["NDCG@10"] for one in cases]),
    ("topn", "Lists for New Users", "higher is better",
     ["Model", "NDCG@10", "NDCG@100", "Recall@20", "Coverage"], dict.values)])
def test_tables_with_a_column_per_count_or_measure(cli, test, title, measure, header, values):
    out, tables = printed(cli, test.split()[0], "--folds", 1, 3, dataset="ml-1m")
    table, = [table for table in tables if table["test"] == test]
    shown = check_layout(out[out.index(title):],
                         f"{title}, Results on MovieLens-1m, folds 1, 3", measure)
    assert shown == ([*header, "Seconds"], [[name, *texts(values(table["average"][name])),
                                             seconds_of(table, name)] for name in NAMES[test]])
    assert table.get("ratings", [0, 2, 8]) == [0, 2, 8]
    assert out.count("- LFG-rank minus EASE: NDCG@100 ") == (test == "topn")


def test_measures_of_lists_by_hand():
    # ranks of what is relevant: 1, 2 and 26; 1; 6 to 30; of 30 items
    lists = np.array([np.arange(30), [*range(29, 0, -1), -1], np.arange(30)])
    relevant = Ratings(np.repeat([2, 4, 5], [3, 1, 25]), [0, 1, 25, 29, *range(5, 30)],
                       np.ones(29), (6, 30))
    gain = 1 / np.log2(np.arange(2, 32))                   # 1 / log2(rank + 1)
    found = experiments.measures(lists, relevant, np.array([2, 4, 5]), 40)
    assert found == {"NDCG@10": pytest.approx((gain[:2].sum() / gain[:3].sum() + 1
                                               + gain[5:10].sum() / gain[:10].sum()) / 3),
                     "NDCG@100": pytest.approx((gain[[0, 1, 25]].sum() / gain[:3].sum() + 1
                                                + gain[5:].sum() / gain[:25].sum()) / 3),
                     "Recall@20": pytest.approx((2 / 3 + 1 + 15 / 20) / 3),  # of min(20, relevant)
                     "Coverage": 20 / 40}


def test_candidates_are_rated_and_not_shown_and_ties_go_by_popularity(monkeypatch):
    measured = record(experiments, "measures", monkeypatch.setattr)
    # likes, 4 or 5, of items 0 to 5: 1 2 0 3 2 0; item 2 is only disliked, nobody rates item 5
    train = Ratings([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3], [1, 3, 4, 1, 3, 4, 3, 0, 2, 1, 2],
                    [5, 4, 5, 4, 5, 4, 5, 5, 1, 3, 2], (7, 25))
    profile = Ratings([4, 5, 6], [3, 1, 0], [5, 2, 5], (7, 25))
    target = Ratings([4, 5, 6, 6], [1, 0, 4, 1], [4, 3, 5, 1], (7, 25))    # 5 likes nothing there
    scores = np.zeros((2, 25))
    scores[:, 5] = 9                                       # the best, were it a candidate
    scores[1, [0, 2]] = 1
    asked = []
    model = SimpleNamespace(scores=lambda *asks: asked.append(asks) or scores.copy())
    found = experiments.ranking_of(model, (train, profile, target), "E")
    (top, relevant, users, n_candidates), result = measured[0]
    assert users.tolist() == [4, 6] and asked[0][1:] == (profile, "E") and found == result
    assert top.tolist() == [[1, 4, 0, 2, -1], [2, 3, 1, 4, -1]] and n_candidates == 5
    assert pairs(relevant) == {(4, 1, 1), (6, 4, 1)} and found["Coverage"] == 1


def test_taste_counts_the_genre_in_the_first_ten_of_its_fans(cli, monkeypatch):
    cli.data = d = synthetic(60, 400, 3000, seed=1)
    war = np.array(["War" in genres for genres in d.genres])
    unrated = d.ratings.T.counts == 0
    asked = []

    def war_first(model, users, shown, E):                 # but for what cannot be in the list
        asked.append(shown)
        scores = np.tile(war + 9.0 * unrated, (50, 1))
        scores[shown.users, shown.items] = 9
        return scores

    monkeypatch.setattr(LFGRank, "scores", war_first)
    out, (table,) = printed(cli, "taste")
    rows = table["rows"]
    assert out.startswith("The First Ten of Fans, on synthetic\n")
    assert [row["share"] for row in rows] == [0, 0, 0, 0, 1]
    assert rows_of(out)[-1] == ["War", "10.0000", "3", "1.0000"]
    assert all(row["mean"] < 4 for row in rows[:4])
    for shown, genre in zip(asked, experiments.TASTES):
        assert shown.counts.tolist() == [4] * 50 and set(shown.values) == {5}
        assert len({*shown.items}) == 20 and all(genre in d.genres[item] for item in shown.items)
    cli.data = replace(d, genres=["War" * int(one) for one in unrated])
    assert "no 20 rated items have a genre of Horror," in one_line(cli("--test", "taste"), "exp")


def test_ablation_is_a_row_per_choice_in_both_tests(cli, folds):
    out, tables = printed(cli, "ablation", "--folds", 2, 3)
    assert [len(fold.trained) for fold in folds] == [12] * 4                # nothing twice
    rows = list(choices(SETTINGS["ml-100k", "basic"]))
    shown = check_layout(out, "What Each Choice Buys, Results on synthetic, folds 2, 3")
    averages = [table["average"] for table in tables]
    assert shown == (["Choice", "Basic", "Real-time"], [
        [row, *texts(average[row] for average in averages)] for row in rows])
    for average, of in zip(averages, ["basic", "realtime"]):
        assert len(set(average.values())) == 14             # each choice does something
        by_model = printed(cli, of, "--folds", 2, 3)[1][0]["average"]      # and these are its rows
        assert [average[rows[n]] for n in (1, 8, 11, 13)] == [
            by_model[name] for name in ("LFG (paper)", "LFG", "LFG-item", "LFG-dual")]


@pytest.mark.parametrize("test", [*OPTIONS, "ablation", "speed", "calibration"])
def test_the_settings_of_ml_1m_run_and_ratings_may_be_all_equal(cli, monkeypatch, folds, test):
    monkeypatch.setattr(settings, "SIZES", {"ml-1m": 900})
    cli.data = replace(cli.data, ratings=cli.data.ratings.with_values(np.full(900, 3.3)))
    assert "nan" not in printed(cli, test, *["--folds", 2] * (test != "speed"))[0]
    assert test not in COLUMNS or all(
        used == QUICK["ml-1m", fold.test] for fold in folds for _, used in fold.plan.values())


def test_tune_prints_the_setting_in_use_and_its_neighbours_of_all_that_can_be_tuned(cli, folds):
    out, tables = printed(cli, "tune")
    plans = {(fold.test, fold.plan["in use"][0]): fold.plan for fold in folds}
    assert list(plans) == TUNED
    for (test, column), table, text in zip(plans, tables, out.split("Validation ")[1:]):
        grid = table["grid"]
        measure = "NDCG@100" if test == "topn" else "RMSE"
        assert text.startswith(f"{measure}, synthetic {test}, {column}: ")
        assert [row[:2] for row in rows_of(text)[2:]] == [
            [row["changed"], f"{row[measure.replace('RMSE', 'rmse')]:.4f}"] for row in grid]
        used, *others = [setting for _, setting in plans[test, column].values()]
        changes = [[(g, k, s[g][k]) for g in used for k in s[g] if s[g][k] != used[g].get(k)]
                   for s in others]
        labels = [f"{'fold-in ' * g.endswith('fold-in')}{k} = {v}" for (g, k, v), in changes]
        assert ["in use", *labels] == [row["changed"] for row in grid]
        names = {column, column.replace(" fold-in", ""), f"{column} fold-in"} - {"BiasSVD fold-in"}
        assert used == QUICK["ml-100k", test] and [g for (g, *_), in changes] == [
            g for g in used if g in names | {column} for k, factors in GRID[g].items()
            for _ in factors if used[g].get(k, k not in ("empty_weight", "kept"))], (test, column)


@pytest.mark.parametrize("test,calls,title", [
    ("all --models svd biassvd", 2, "LFG Rating Prediction"), ("all --models svd biassvd", 0, ""),
    ("coldstart --models biassvd", 2, "Cold Start by Ratings in the Profile,"),
    ("ablation", 5, "What Each Choice Buys,"), ("ablation", 1, "")])
def test_ctrl_c_prints_the_complete_folds(cli, monkeypatch, test, calls, title):
    steps = iter([experiments.measured] * calls + [stop(KeyboardInterrupt)])
    monkeypatch.setattr(experiments, "measured", lambda fold: next(steps)(fold))
    code, out, err = cli("--dataset=synthetic", "--json", cli.json, "--test", *test.split())
    assert (code, err) == (130, "experiments.py: interrupted; folds are above\n")
    titles = re.findall("^(.*) Results on synthetic, folds 1, 2$", out, re.M)
    assert titles == [title] * bool(out) and bool(out) == bool(title) == cli.json.exists()
    for table in json.loads(cli.json.read_text()) if title else []:
        assert [fold["fold"] for fold in table["folds"]] == [1, 2]
        assert table.get("average", {}).keys() <= {row[0] for row in rows_of(out)}


@pytest.mark.parametrize("terminal,more", [
    (True, []), (True, ["--jobs", 2]), (True, ["--quiet"]), (False, [])])
def test_progress_is_for_terminals(cli, monkeypatch, terminal, more):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bars = record(settings, "progress_bar", monkeypatch.setattr)
    code, _, text = cli("--dataset", "synthetic", "--test", "basic", "--folds", 1, *more)
    (_, bar), = bars
    assert (code, bar.total, bar.n) == (0, 16, 16 if text else 0)    # two epochs of eight parts
    assert ("synthetic basic  " in text) == bool(text) == (terminal and "--quiet" not in more)
    assert all(len(part) <= 80 for part in re.split("[\r\n]", text))


@pytest.mark.parametrize("test", ["realtime", "ablation", "calibration"])
def test_digits_do_not_depend_on_jobs(cli, monkeypatch, test):
    asked = record(settings, "ProcessPoolExecutor", monkeypatch.setattr)
    found = []
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
        printed(cli, test, "--folds", 1, 2)
        found.append(re.sub('"seconds": {.*?}', "", cli.json.read_text(), flags=re.S))
        assert bool(asked) == (len(cores) > 1)
    assert found[0] == found[1]


class Fails(str):
    """A model whose training runs this code."""

    def fit(self, *_, **__):
        exec(self)


def test_what_goes_wrong_in_another_process_is_one_line(cli, monkeypatch):
    monkeypatch.setitem(QUICK["ml-100k", "basic"]["LFG"], "rate", 1e38)
    assert "training diverged in epoch 1" in one_line(cli("--test=basic", "--jobs=2"), "exp")
    signal.signal(signal.SIGINT, signal.default_int_handler)             # a shell may ignore it
    half = "os.write(sys._getframe(4).f_locals['result_queue']._writer.fileno(), b'\\1' * 9)"
    for error, *codes in ((DataError, f"{half}; os._exit(1)"),
                          (ZeroDivisionError, "1 / 0", "import signal; signal.pause()"),
                          (KeyboardInterrupt, f"{half}; os.kill({os.getpid()}, 2)")):
        models = settings.Models(None, synthetic(3, 3, 5))
        models.trained = {(code,): Fails(code) for code in codes}      # the last starts first
        with pytest.raises(error, match="if memory ran out, use fewer jobs|division by zero|^$"):
            list(settings.fit_all([models], 2, True))
    assert active_children() == []


@pytest.mark.parametrize("how,code,folds", [
    ("os.killpg(0, signal.SIGINT)", 130, 1), ("os.fork() and os.kill(os.getpid(), 9) or ["
     "os.closerange(0, 3), signal.alarm(70), signal.pause()]", -9, 0)])  # a fork holds what is open
def test_ctrl_c_prints_complete_folds_and_no_process_is_left_even_after_a_kill(how, code, folds):
    done = python(f"""if True:
        import os, signal, sys
        import experiments, serve
        measured = experiments.measured
        # Ctrl-C goes to all processes, the kill to one; late, so all have begun
        steps = iter([measured] * 3 + [lambda fold: {how} or [*map(measured, [fold] * 9999)]])
        experiments.measured = lambda fold: next(steps)(fold)
        signal.signal(signal.SIGINT, signal.default_int_handler)         # a shell may ignore it
        serve.run_command("experiments.py", experiments.run, sys.argv[1:], "interrupted")
        """, "--dataset", "synthetic:60x40x900", "--test", "basic", "--models", "lfg", "--jobs", 2,
                  start_new_session=True, timeout=60)      # until all have closed their output
    assert (done.returncode, done.stderr) == (code, "experiments.py: interrupted\n" * folds)
    assert done.stdout.count("Results on synthetic, folds 1, 2, 3\n") == folds


def test_speed_is_a_row_per_way_to_answer(cli, monkeypatch, folds):
    timed = record(experiments, "timed", monkeypatch.setattr)
    fits = record(experiments, "fit", monkeypatch.setattr)
    cli.data = replace(cli.data, ratings=cli.data.ratings.with_values(cli.data.ratings.values / 9))
    monkeypatch.setattr(settings, "ProcessPoolExecutor", None)           # one, whatever --jobs
    out, (table,) = printed(cli, "speed", "--jobs", 2)
    rows, training = table["rows"], table["training"]
    assert [r["calls"] for r in rows] == [12] * 9 + [3] * 2    # 12 users are new
    for r in rows:
        assert 0 < r["median"] <= r["p99"] < 60
        assert r["times_dense"] == pytest.approx(r["median"] / rows[0]["median"])
    assert table["retraining_to_lfg"] == rows[9]["median"] / rows[1]["median"]
    assert 0 < table["file_mb"] < 1 and 10 < table["peak_mb"] < 100_000
    assert [t["model"] for t in training] == [
        "BiasSVD", "SVD", "LFG", "LFG-item", "LFG-rank user", "LFG-rank item"]
    assert all(t["seconds_an_epoch"] == t["seconds"] / 2 > 0 for t in training)
    assert [row[0] for row in rows_of(out) if row[0][0] != "-"] == [
        "What", *(r["what"] for r in rows), "Model", *(t["model"] for t in training)]
    more = [(type(one), len(R) > len(folds[0].cases[0].train)) for (one, R, *_), _ in fits]
    assert more == [(BiasSVD, True)] * 3 + [(SVD, True)] * 3      # with a new user's ratings
    # what is measured answers as the models of the tables do
    bias, _, dual, rank = folds[0].models.values()
    models = {"LFG, dense forward pass": dual.forward, "LFG": dual.forward,
              "LFG-item": dual.solved, "LFG-dual": [dual], "BiasSVD fold-in": [bias],
              "LFG-rank": [rank], "LFG-rank, LFG-dual": [rank, dual]}
    assert [r["what"] for r in rows[:7]] == list(models)
    _, profile, target = parts_of(cli.data, "realtime", 1)
    for answering, ((answer, calls), _) in zip(models.values(), timed):
        for u, call in zip(np.unique(target.users), calls):
            expected = [model.scores(u[None], profile, cli.data.E)[0] for model in answering]
            got = np.reshape(answer(*call), (len(answering), -1))
            assert got == pytest.approx(np.array(expected), abs=1e-5)
    assert dual.forward[0].mask == (0.3, 1.0)               # as in a saved model, for any profile


def test_sample_trains_on_nested_shares_and_asks_the_same_new_users(cli, folds):
    out, (table,) = printed(cli, "sample", "--folds", 2)
    title = "Trained on a Share of the Users, Results on synthetic, fold 2"
    measures = "RMSE and seconds of LFG-dual, NDCG@10 and seconds of LFG-rank"
    header, rows = check_layout(out, title, measures)
    assert (len(header), len(folds)) == (7, 5)
    train, profile, target = parts_of(cli.data, "realtime", 2)

    def users_of(R, E):
        return {(*R.rows(u[None])[1], *E[u]) for u in np.flatnonzero(R.counts)}    # items, profile

    before = set()
    for share, row, fold, shown in zip((5, 10, 25, 50, 100), table["rows"], folds, rows):
        case, = fold.cases
        assert [pairs(case.profile), pairs(case.target)] == [pairs(profile), pairs(target)]
        users = users_of(*fold.inputs[:2])
        assert before < users and len(users) == row["users"]
        assert row["users"] == max(1, share * np.count_nonzero(train.counts) // 100)
        before = users
        rmse = experiments.rmse_of(fold.models["LFG-dual"], case, cli.data.E)
        assert row["rmse"] == pytest.approx(rmse)
        assert shown[:3] == [f"{share} %", f"{row['users']:.0f}", f"{row['ratings']:.0f}"]
        assert [shown[3], shown[5]] == texts([row["rmse"], row["ndcg"]])
    assert users == users_of(train, cli.data.E) and row["ratings"] == len(train)
    assert sample_users(cli.data, 60, 7) is cli.data       # as nobody is left out


def test_calibration_worked_by_hand():
    error, variance = np.float32([0.5, -2, 3, 0, 1.5]), np.array([1.0, 4, 1, 9, 1])
    table = experiments.calibration_of(error, variance, 2.0)

    def nll(variance):
        density = np.exp(-error ** 2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return pytest.approx(-np.log(density).mean(), rel=1e-5)
    assert table == {"coverage": {"50": 0.4, "80": 0.6, "95": 0.8}, "nll": nll(variance),
                     "nll_constant": nll(2.0), "rmse_by_fifth": [0.5, 3, 1.5, 2, 0]}
    assert experiments.LEVELS == {"50": 0.67449, "80": 1.28155, "95": 1.95996}  # as in tables


def test_calibration_is_a_row_per_fold_and_noise_does_not_see_the_target(cli, monkeypatch, folds):
    noise = record(Noise, "fit", monkeypatch.setattr)
    predict = LFGDual.predict                              # beyond the scale, so it is clipped
    monkeypatch.setattr(LFGDual, "predict", lambda *arguments: 3 * predict(*arguments) - 7)
    out, (table,) = printed(cli, "calibration", "--folds", 2, 3)
    header, rows = check_layout(out, "How Sure Ratings Are, Results on synthetic, folds 2, 3",
                                "LFG-dual: ratings within each interval; NLL, and with one spread "
                                "for all; RMSE by fifth")
    assert (len(header), len(rows), [*map(len, table["folds"])]) == (11, 2, [8, 8])
    for fold, row, made, (_, found) in zip(table["folds"], rows, folds, noise):
        model = made.models["LFG-dual"]
        train, profile, target = parts_of(cli.data, "realtime", fold["fold"])
        asked = target.users, target.items, profile, cli.data.E
        error = model.predict(*asked).clip(1, 5) - target.values
        a, b = model.variance_terms(*asked)
        assert fold == {**fold, "n_train": len(train), "n_test": len(target),
                        **experiments.calibration_of(error, a * found.sigma2 + b, found.constant)}
        assert row == [str(fold["fold"]), *texts([
            *fold["coverage"].values(), fold["nll"], fold["nll_constant"], *fold["rmse_by_fifth"]])]
    check_parts(noise[0][1].spare, "realtime", "LFG-item")
    cli.data = with_ratings(cli.data, target, 3)           # of fold 3
    again = printed(cli, "calibration", "--folds", 2, 3)[1][0]["folds"][1]
    assert noise[1][1].sigma2 == noise[3][1].sigma2
    assert all_same(folds[1].models.values(), folds[3].models.values())
    assert again["coverage"] != fold["coverage"]


def test_small_parts_by_hand():
    grid = [((0.3, 1.0), 1.4), ((0.3, 1.0), 0.5), (0.3, 1.4), (50, 0.5), (1, 0.5), ((64, 1), 0.5)]
    got = [settings.scaled(value, factor) for value, factor in grid]
    assert got == [(0.42, 1.0), (0.15, 0.5), 0.42, 25, 1, (32, 1)]  # probability <= 1 <= count
    asked = []                                              # the first are answered once before
    seconds = experiments.timed(lambda user: asked.append(user), [(n,) for n in range(60)])
    assert asked == [*range(50), *range(60)] and len(seconds) == 60 and min(seconds) > 0
    spans = {8e-8: "0.08 µs", 8.123e-5: "81.2 µs", 0.00123: "1.23 ms", 1: "1 s", 1234.5: "1230 s"}
    assert {seconds: experiments.span(seconds) for seconds in spans} == spans


# Recommender


# Their ids are 50 more than their indices.
TITLES = ["Matrix, The (1999)", "Heat (1995)", "Heat (1972)", "Postman, The (Postino, Il) (1994)",
          "Été, L' (1987)", "Les Misérables (1995)", "Toy Story (1995)", "54 (1998)",
          "Postman Pat (1990)", "HEAT (1995)", *(f"Film {n} ({1950 + n})" for n in range(10, 40))]


@pytest.fixture(scope="module")
def films(small):
    """A Dataset of 60 users and 40 films; film 8 and user 3 have no ratings."""
    R = small.ratings.where((small.ratings.items != 8) & (small.ratings.users != 3))
    years = np.array([int(title[-5:-1]) for title in TITLES])
    return replace(small, ratings=R, item_ids=np.arange(50, 90), titles=TITLES, years=years,
                   genres=["Drama|Crime", "War"] * 20)


@pytest.fixture(scope="module")
def served(films):
    """served(kind, unit) -> Recommender and its models; LFG is deep in that of kind user."""
    @lru_cache(None)
    def build(kind="dual", unit=1):
        hidden = (8, 6) if kind == "user" else (8,)
        users = [lfg(cls, hidden=hidden, epochs=20) for cls in (LFG, RankLFG)] * (kind != "item")
        solved = [LFGItem([lfg(epochs=20, seed=seed) for seed in (0, 1)], 50, 3)] * (kind != "user")
        ranked = [LFGRankItem([lfg(CellsLFG, seed=seed) for seed in (0, 1)], 2, 20, 3, 0.5)]
        R = films.ratings.with_values(unit * films.ratings.values)
        dual = LFGDual(users[:1], solved, (0.2, 0.6)).fit(R, films.E, films.F)
        rank = LFGRank(users[1:], ranked[:len(solved)], (0.5, 0.1)).fit(R, films.E, films.F)
        return Recommender.from_model(dual, rank, films, R, 0.8 * unit ** 2), dual, rank
    return build


@pytest.fixture
def model(served):
    return served()[0]


@pytest.fixture
def kept(model, tmp_path):
    """The file of this model, called m."""
    model.save(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("n_rated", [0, 1, 2, 3, 4, 7, 20, 40])
def test_best_are_those_that_somebody_but_not_the_user_has_rated(model, n_rated):
    equal = {name: 0 * model.arrays[name] for name in ("rank_q", "rank_M1") if n_rated == 7}
    model = Recommender({**model.arrays, **equal, "scale": np.float32([2.75, 3.25])})
    rng = np.random.default_rng(n_rated)
    items = rng.permutation(40)[:n_rated]
    user = items, np.float32(rng.integers(1, 6, n_rated)), np.float32(rng.random(30) < 0.2)
    ratings = model.scores(*user)
    assert ratings.dtype == np.float32
    for scores, more in ((model.ranks(*user), {}), (ratings, {"by": "rating"})):
        left = sorted(set(range(40)) - {8, *items.tolist()}, key=lambda item: -scores[item])
        for n in (1, 5, 39, np.int64(1000)):
            best, scored, rated = model.best(*user, n, **more)
            assert best.tolist() == left[:n] and scored.tolist() == scores[best].tolist()
            assert rated == pytest.approx(ratings[best].clip(2.75, 3.25), abs=1e-5)


def test_similar_items_have_the_nearest_factors_that_the_networks_generate(served, films):
    model, _, rank = served()
    q = np.hstack([one.user_factors(np.arange(40), films.ratings.T, films.F)[:, :-1]
                   for one in rank.solved[0].models])      # without genres
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    cosines = q @ q.T
    for i in (0, 8, 20):
        left = sorted(set(range(40)) - {8, i}, key=lambda j: -cosines[i, j])
        rows = model.similar(TITLES[i], 100)
        assert rows.drop(columns="similarity").to_dict("list") == {
            "item": films.item_ids[left].tolist(), "title": [TITLES[j] for j in left],
            "genres": [films.genres[j] for j in left]}
        assert rows["similarity"].to_numpy() == pytest.approx(cosines[i, left], abs=1e-5)
        assert len(model.similar(i + 50)) == 10
    assert "generates no items; train one with" in fail(50, call=served("user")[0].similar)


def test_a_saved_model_has_the_same_bits_or_half_of_them(model, tmp_path):
    whole = {name: x * model.arrays[name] for name, x in (("M1", 1e6), ("W_H", 1e-6))}
    model = Recommender({**model.arrays, "sigma2": np.array(1e11), **whole})     # not for float16
    matrices = [f"model.{name}" for name, a in model.arrays.items()
                if a.ndim == 2 and name not in whole]
    for half in (False, True):
        model.save(tmp_path / f"{half}", half=half)
        loaded = Recommender.load(tmp_path / f"{half}")
        assert differing(arrays(model.arrays), arrays(loaded.arrays)) == matrices * half
        assert all(a.dtype == model.arrays[name].dtype for name, a in loaded.arrays.items())


@pytest.mark.parametrize("names,damage", [                 # of each array whose name fits
    (".*", lambda a: None), (".*", lambda a: a * np.nan if a.dtype == np.float32 else None),
    ("(?!.*generated).*", lambda a: a[1:] if a.ndim else np.array([2, 2])),
    ("W_H|rank_b0", lambda a: a + 1e11), ("titles", lambda a: a.astype(object)),      # a pickle
    ("(rank_)?ridge|rank_few|format|noise", lambda a: 0 * a), ("sigma2", lambda a: -99 * a),
    ("scale", lambda a: a[::-1]), ("scale|rank_M1|years|rank_generated", lambda a: a.ravel()[0])])
def test_a_damaged_model_and_a_pickle_are_refused(model, tmp_path, monkeypatch, names, damage):
    monkeypatch.chdir(tmp_path)
    refusal = "x.npz: not a model file of format 6, or damaged; train it again"
    for name in filter(re.compile(names).fullmatch, model.arrays):
        changed = {**model.arrays, name: damage(model.arrays[name])}
        np.savez("x.npz", **{key: a for key, a in changed.items() if a is not None})
        assert fail("x.npz", call=Recommender.load) == refusal
    model.save("x.npz")
    whole = Path("x.npz").read_bytes()
    flipped = whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]
    for raw in (flipped, whole[:5000], whole[:-9], b""):
        Path("x.npz").write_bytes(raw)
        assert fail("x.npz", call=Recommender.load) == refusal


def test_calls_change_nothing_and_threads_share_a_model(model):
    before = arrays(model.arrays)
    users = [{50 + i: 1 + (i + n) % 5 for i in range(n)} for n in range(40)] * 3
    told = str(users)

    def ask(user):
        return (model.predict(user, [51, 59], {"age": 20}),
                *model.recommend(user, profile={"gender": "F"}).to_numpy().T)

    serial = [ask(user) for user in users]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(same, serial, pool.map(ask, users)))
    assert str(users) == told and differing(before, arrays(model.arrays)) == []


def test_items_are_found_by_id_then_by_title(model):
    found = {"Matrix, The (1999)": 0, "The Matrix": 0, "the matrix (1999)": 0, "MATRIX,  THE": 0,
             "matrix": 0, "Heat (1995)": 1, "heat(1972)": 2, "Il Postino": 3, "the postman": 3,
             "Postino, Il (1994)": 3, "L'Été": 4, "été, l'": 4, "54": 4, 54.0: 4, " id: 54": 4,
             "Les misérables": 5, "Misérables, Les": 5, "MISERABLES (1995)": 5, " Toy Story ": 6,
             "toy": 6, np.int64(57): 7, "54 (1998)": 7, "HEAT (1995)": 9}
    assert {name: model.find(name) for name in found} == found


def test_because_names_the_rated_items_that_speak_most_for_one(model):
    user = {"Heat (1995)": 5, "54": 4, "toy": 4.5, 60: 1, 61: 2, "id:62": 5}
    items = dict(zip(user, [51, 54, 56, 60, 61, 62]))
    profile = {"gender": "F"}
    for by in ("rank", "rating"):
        rows = model.recommend(user, 40, profile, by).to_dict("records")
        *_, shares = model.best(*model.indices(user), model.profile_row(profile), 40, by, why=True)
        assert len(rows) == len(shares) == 33
        for row, expected in zip(rows, shares):
            told, rest = model.explain(pd.Series(user), row["title"], profile, by)
            assert told == pytest.approx(dict(zip(user, expected)), abs=1e-5)
            assert sum(told.values()) + rest == pytest.approx(row["score"], abs=1e-4)
            most = sorted([name for name in user if told[name] > 0], key=lambda s: -told[s])[:3]
            assert row["because"] == [{"id": str(items[name]), "title": TITLES[items[name] - 50],
                                       "contribution": pytest.approx(told[name], abs=1e-5)}
                                      for name in most]
    assert model.recommend({}, 3)["because"].tolist() == [[], [], []]


@pytest.mark.parametrize("profile,ones", [
    ({"age": 17}, ["age=1"]), ({"age": "18"}, ["age=18"]), ({"age": 25}, ["age=25"]),
    ({"age": "99.5", "gender": "f"}, ["age=56", "gender=F"]), ({"age": 0}, ["age=1"]), ({}, [])])
def test_a_profile_changes_the_answer_and_what_is_missing_is_the_mean(model, profile, ones):
    row = model.profile_row(profile)
    for name, x, mean in zip(model.E_names, row.tolist(), model.E_mean.tolist()):
        assert x == (name in ones if name.partition("=")[0] in profile else mean)
    user = np.array([1]), np.float32([2]), row
    given = {"occupation": None, "age": np.nan, "gender": pd.NA, **profile}
    assert (model.recommend({51: 2}, 40, given)["score"] == model.best(*user, 40)[1]).all()
    ratings = model.scores(*user)
    scale = np.float32([1, ratings[[0, 3]].mean()])        # clips one of the two
    ratings = ratings.clip(*scale)
    model = Recommender({**model.arrays, "scale": scale})
    assert model.predict({51: 2}, iter([53, "50"]), profile).tolist() == ratings[[3, 0]].tolist()
    assert model.predict({51: 2}, "53", profile).tolist() == [ratings[3]]


@pytest.mark.parametrize("more,among", [
    ({"genre": "war"}, lambda n, year: n % 2), ({"years": "1995"}, lambda n, year: year == 1995),
    ({"years": "1951-1990", "genre": "DRAMA", "by": "rating"},
     lambda n, year: n % 2 == 0 and 1951 <= year <= 1990)])
def test_lists_are_ordered_by_rank_or_rating_and_filtered(model, more, among):
    everything = model.recommend({51: 5}, 100, by=more.get("by", "rank"))
    expected = [item for item, title in zip(everything["item"].tolist(), everything["title"])
                if item != 58 and among(item, int(title[-5:-1]))]      # 58 has no ratings
    assert model.recommend({51: 5}, 100, **more)["item"].tolist() == expected


IDS = [*"ab", "sku 1", *"def", "007", "7", "new"]
OWN = dict(columns={"customer": "user", "film": "item", "stars": "rating"}, epochs=2, seeds=2,
           factors=3, quiet=True)


def own_tables():
    """Half stars by people with names; each table lacks something."""
    rng = np.random.default_rng(1)
    rows = [(f"u{u}", IDS[n], rng.integers(1, 11) / 2, "unused") for u in range(12)
            for n in rng.permutation(8)[:5]]
    ratings = pd.DataFrame(rows, columns=["customer", "film", "stars", "user"])
    users = pd.DataFrame({"userId": [f"u{u}" for u in range(11)], "Age": [20, 30, None] + [40] * 8,
                          "city": [2, None, 1] + [2] * 8})
    items = pd.DataFrame({"movie": 4 * ["x"], "item": ["a", "b", "007", "new"],
                          "title": ["Alien", "Heat", "Bond", "N"], "Year": [1979, 1995, 1962, 2020],
                          "genres": ["Sci-Fi | crime ", "Crime", None, "Crime"]})
    return ratings, users, items


def test_a_model_of_ones_own_tables_and_the_example_of_the_class():
    assert doctest.testmod(serve) == (0, 5)                 # none fails
    tables = own_tables()
    model = Recommender.train(*tables, **OWN)
    assert all(map(pd.DataFrame.equals, tables, own_tables()))
    assert (model.low, model.high) == (0.5, 5) and model.arrays["q"].shape == (9, 7)
    assert model.E_names == [*(f"age={a}" for a in data.AGES), "city=1", "city=2"]
    rows = model.recommend({"007": 4.5, "heat": 0.5}, 100, {"city": np.float32(1), "age": ""})
    assert sorted(rows["item"]) == ["7", "a", "d", "e", "f", "sku 1"]       # but not new
    assert [*model.titles[model.indices({"alien": 1, "sku 1": 1})[0]]] == ["Alien (1979)", "sku 1"]
    assert model.among("CRIME")[model.indices({"Heat": 1, "N": 1, "alien": 1})[0]].all()
    assert "'sku' is not the id or title" in fail({"sku": 1}, call=model.recommend)    # of an id
    model = Recommender.train(*tables, **OWN, sample=1)     # knows the scale and items of all
    assert (model.low, model.high, len(model.item_ids)) == (0.5, 5, 9)


PYTHON_MISTAKES = """
model.recommend({"Heat": 4}) | fits several items; add the year, or use the id: Heat (1995) (id 51)
model.recommend({"toy s": 4}) | is not the id or title of an item; the nearest are: Toy Story
model.recommend({"The Postman (1990)": 4}) | nearest are: Postman, The (Postino, Il) (1994) (id 53)
model.recommend({"oy story": 4}) | is not the id or title of an item; the nearest are: Toy Story
model.recommend({39: 4}) | '39' is not the id or title of an item; check its spelling
model.predict({}, [54, float("nan")]) | '' is not a title
model.recommend({54: 4, "ete": 4}) | ratings['ete']: Été, L' (1987) is rated twice
model.recommend({54: 1e39}) | ratings[54]: rating 1e+39 must be between 1 and 5
model.recommend({54: "good"}) | rating 'good' is not a number
model.recommend({54: True}) | rating True is not a number
model.recommend([(54, 5)]) | ratings must be a dict
model.recommend(pd.DataFrame([(54, 5)])) | ratings must be a dict
model.recommend({}, n=True) | n is True; it must
model.recommend({}, profile=[25]) | profile must be a dict such as {"age": 25}
model.recommend({}, profile={"age": 1985}) | age=1985: not in the profiles
model.recommend({}, profile={"gender": "x"}) | choose from gender=F, gender=M
model.recommend({}, profile={"city": "x"}) | choose from age, gender, occupation
model.recommend({}, by=["rank"]) | by is ['rank']; it must be rank or rating
model.recommend({}, genre="Jazz") | genre 'Jazz' is unknown; choose from Crime, Drama, War
model.recommend({}, years="1980-") | years '1980-': must be like 1980-1999 or 1995
model.recommend({}, years="1999-1980") | years '1999-1980': must be like
model.save(".") | .: cannot be written; choose another file
model.similar(54, -3) | n is -3; it must be a whole number above 0
Recommender.train(None) | ratings must be a pandas DataFrame; it needs user, item, rating
serve.score_users(frame(user=["a", "", "b"]), model) | ratings, row 1: user id is empty
Recommender.train(pd.DataFrame(), columns="user=a") | columns must be a dict such as
Recommender.train(own_tables()[0], **OWN, generator="both") | generator is 'both'; it must
Recommender.train(own_tables()[0], jobs=None) | jobs is None; it must
Recommender.train(own_tables()[0], seed=-1) | seed is -1; it must be a whole number above -1
"""


@pytest.mark.parametrize("line", PYTHON_MISTAKES.strip().splitlines())
def test_mistakes_in_python_are_data_errors_of_one_line(model, line):
    call, message = line.split(" | ")
    assert message in fail(call, {**globals(), "model": model}, call=eval)


# Commands


@pytest.fixture
def lfg_py(cli, monkeypatch, capsys):
    """lfg_py(arguments..., stdin) -> exit code, stdout, stderr of lfg.py, as quick as cli."""
    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "ascii"))
        return exit_of(capsys, serve.main, *arguments)
    return run


@pytest.mark.parametrize("kind,seeds,weights", [
    ("user", [7], [1, 1, 1, 1]), ("item", [7, 8, 9], [0, 0, 0, 0]),
    ("dual", [7, 7, 8, 9], [0.15, 0.3, 0.7, 0.3])])
def test_train_takes_any_csv_and_its_options_and_gives_the_same_bits_whatever_jobs(
        lfg_py, small, tmp_path, monkeypatch, kind, seeds, weights):
    made, noise, pools = (record(owner, name, monkeypatch.setattr) for owner, name in (
        (settings.Models, "add"), (Noise, "fit"), (settings, "ProcessPoolExecutor")))
    R = small.ratings
    rows = [f"{2 * v:g},{u},{i}\n" for u, i, v in zip(R.users, R.items, R.values)]
    write(tmp_path, {"x.csv": "stars,customer,film\n" + "".join(rows), "1": "old",
                     "movies.csv": "item,title,genres\n0,Film (1995),War\n"})
    found, names = [], "user=customer,item=film, rating=stars"
    for jobs in ("1", "2"):
        path = tmp_path / jobs
        options = f"train --half --generator {kind} --seeds 3 --seed 7 --epochs 1 --factors 3"
        code, out, err = lfg_py(*options.split(), f"--jobs={jobs}", f"--out={path}", "--sample=50",
                                f"--dataset={tmp_path}/x.csv", f"--columns={names}")
        told = ("training on 50 of 60 users, 763 ratings from 2 to 10, 55.2% likes\nknown about "
                "users: nothing; about items: genre, decade\ntraining RMSE [0-4]\\.[0-9]{4}\n")
        assert re.fullmatch(told + f"{path}: {path.stat().st_size / 1e6:.1f} MB\n", err)
        assert (code, out, len(pools)) == (0, "", jobs == "2")
        found.append(Recommender.load(path))
    assert differing(*(arrays(model.arrays) for model in found)) == []
    a = found[0].arrays
    assert [*a["scale"], *a["weights"], *a["rank_weights"]] == [2, 10, *np.float32(weights)]
    assert all((x == x.astype(np.float16)).all() for x in a.values() if x.ndim == 2)
    dual, rank = [one for _, one in made if isinstance(one, LFGDual)][:2]
    for model in (dual, rank):
        parts = model.forward + [one for solved in model.solved for one in solved.models]
        assert [(one.seed, one.epochs, one.n_factors) for one in parts] == [
            (seed, 1, 3) for seed in seeds]
    assert all((one.l2, one.l2_bias, one.kept) == (300, 6, 150) for one in dual.solved)
    assert all((one.l2, one.few, {*one.known}, one.kept) == (140, 200, {0, 20}, 200)
               for one in rank.solved)
    (((own, told, *_), _),) = noise                        # from a network trained for it alone
    assert type(own.spare) is (LFG if kind == "user" else LFGItem) and len(told) == 763
    assert a["sigma2"] == np.float32(own.sigma2)


def contents(folder):
    return {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


TRAIN = "train --quiet --dataset synthetic:60x40x900 --out model"


@pytest.mark.parametrize("command,broken,error,code,message", [
    (TRAIN, "lfg.LFG.fit", KeyboardInterrupt, 130, "interrupted; no output file was changed"),
    ("recommend --model m", "numpy.load", MemoryError(), 2, "memory ran out"),
    (TRAIN, "serve.load", OSError(36, "too long"), 2, "[Errno 36] too long"),
    (TRAIN, "lfg.LFG.fit", FloatingPointError("training diverged"), 2, "training diverged"),
    ("export --model m --out new", "pathlib.Path.write_text", OSError(28, "No space"), 2,
     "new: No space; choose a new or empty folder"),
    ("export --model m --out empty", "os.replace", KeyboardInterrupt, 130,
     "interrupted; no output file was changed")])
def test_a_command_that_ends_early_changes_no_file(lfg_py, kept, tmp_path, monkeypatch, command,
                                                   broken, error, code, message):
    monkeypatch.chdir(tmp_path)
    (write(tmp_path, {"model": "old"}) / "empty").mkdir()
    before = contents(tmp_path)
    monkeypatch.setattr(broken, stop(error))
    assert lfg_py(*command.split()) == (code, "", f"lfg.py: {message}\n")
    assert contents(tmp_path) == before


def as_printed(rows):
    """What --json prints of the rows of recommend or similar."""
    rows = rows.rename(columns={"item": "id"}).astype({"id": str})
    if "because" in rows:
        rows.insert(0, "rank", range(1, len(rows) + 1))
    return json.loads(json.dumps(rows.to_dict("records")), parse_float=lambda x: round(float(x), 3))


@pytest.mark.parametrize("command,ask", [
    ("recommend --rate=id:54=5 --rate=heat(1972)=1.5 -n 40",
     lambda model: model.recommend({54: 5, 52: 1.5}, 40)),
    ("recommend --by=rating", lambda model: model.recommend({}, by="rating")),
    ("recommend --years 2020", lambda model: model.recommend({}, years=2020)),
    ("recommend --genre=war --age 34 --gender F --occupation artist", lambda model:
     model.recommend({}, genre="war", profile={"age": 34, "gender": "F", "occupation": "artist"})),
    ("similar toy -n 30", lambda model: model.similar(56, 30))])
def test_a_list_is_that_of_python_as_a_table_or_json(lfg_py, kept, model, command, ask):
    command = [*command.split(), "--model", kept]
    code, out, err = lfg_py(*command, "--json")
    assert (code, json.loads(out.encode("ascii")), err) == (0, as_printed(ask(model)), "")
    _, out, err = lfg_py(*command)
    lines = out.splitlines()
    assert err == "no item is left to list\n" * (len(lines) == 1)
    rows = ask(model).itertuples()
    if command[0] == "similar":
        cells = [["Title", "Similarity", "Genres"],
                 *([one.title, f"{one.similarity:.2f}", one.genres] for one in rows)]
    else:
        cells = [["Rank", "Title", "Score", "Rating", "Because"], *(
            [str(n), one.title, f"{one.score:.2f}", f"{one.rating:.1f} ± {one.spread:.1f}",
             ", ".join(rated["title"] for rated in one.because)] for n, one in enumerate(rows, 1))]
    assert [re.split("  +", line.lstrip()) for line in lines] == cells
    last = lines[0].index(cells[0][-1])                    # aligned
    assert [line[last:] for line in lines] == [row[-1] for row in cells]


@pytest.mark.parametrize("text,rated", [
    ("title,rating\nHeat (1995),4\n\"Matrix, The (1999)\",2\n", {51: 4, 50: 2}),
    ("\ufeffmovieId,rating\n54,4\n57,2", {54: 4, 57: 2}), ("title,Rating\n", {}),
    ("54,4\r\nMisérables,2\r\n\r\n id:51 , 3 \r\n", {54: 4, 55: 2, 51: 3})])
def test_ratings_come_from_a_csv_or_standard_input(lfg_py, kept, model, tmp_path, text, rated):
    path = write(tmp_path, {"r.csv": text}) / "r.csv"
    command = ["recommend", "--model", kept, "--json", "--ratings"]
    assert json.loads(lfg_py(*command, "-", stdin=text)[1]) == as_printed(model.recommend(rated))
    more = as_printed(model.recommend({70: 1, **rated}))
    assert json.loads(lfg_py(*command, path, "--rate", "id:70=1")[1]) == more


@pytest.mark.parametrize("kind,n,stdin,more", [
    ("user", 3, False, {}), ("item", 99, True, {"by": "rating"}),
    ("user", 1, True, {"years": 2050}), ("dual", 10, True, {"genre": "wAR", "years": "1950-1989"})])
def test_score_gives_each_user_what_recommend_gives_in_any_order(lfg_py, served, tmp_path, kind, n,
                                                                 stdin, more):
    model = served(kind)[0]
    model.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    table = pd.DataFrame([(user, n + 50 if n % 2 else str(n + 50), rng.integers(1, 6))
                          for user in ("1", "10", "9", 'a, "b"')
                          for n in np.sort(rng.permutation(40)[:25])], columns=data.RATED)
    parts, expected = [], [["user", "item", "rating", "score"]]
    for user, rows in table.groupby("user"):
        parts.append(serve.score_users(rows.assign(user=f"{user} ")[::-1], model))      # a cluster
        best = model.recommend(dict(zip(rows["item"], rows["rating"])), n, **more)
        expected += [[user, str(item), f"{rating:.4f}", f"{score:.4f}"]
                     for item, _, score, rating, *_ in best.itertuples(index=False)]
    whole = serve.score_users(table.rename(columns={"item": "movieId"}), model)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_exact=True)
    out = tmp_path / "out.csv"
    options = [f"--{name}={value}" for name, value in more.items()]
    table.columns = ["who", "movieId", "rating"]
    for rows in (table, table.sample(frac=1, random_state=0)):
        text = rows.to_csv(index=False)
        source = "-" if stdin else write(tmp_path, {"r.csv": text}) / "r.csv"
        done = lfg_py("score", "--model", tmp_path / "model", "--ratings", source, "--out", out,
                      "--columns", "user=who", "-n", n, *options, stdin=text)
        assert done == (0, "", "no item is left to list\n" * (len(expected) == 1))
        assert b"\r" not in out.read_bytes() and {*parts[0]["item"]} <= {*model.item_ids.tolist()}
        assert list(csv.reader(out.read_text(encoding="utf-8").splitlines())) == expected


@lru_cache(None)
def ported(folder):
    """(items, ratings, profile) -> what vectors.json holds of a user, by docs/porting.md."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    numbers = np.fromfile(folder / "weights.bin", "<f4").astype(float)
    a = {one["name"]: numbers[one["offset"] // 4:][:int(np.prod(one["shape"]))]
         .reshape(one["shape"]) for one in manifest["arrays"]}

    def generate(p, items, values, profile):                # p: "" or "rank_"
        told = values @ a[p + "W_H"][items] + a[p + "W_seen"][items].sum(0)
        h = a[p + "b0"] + profile @ a[p + "W_E"] + told / np.sqrt(max(1, len(items)))
        for n in range(1, manifest[p + "layers"] + 1):
            h = np.where(h > 0, h, manifest["slope"] * h) @ a[f"{p}W{n}"] + a[f"{p}b{n}"]
        return h if p else np.tanh(h)

    def solve(p, items, profile, told, values):             # told: the items that pull the row
        q, base, n = a[p + "q"], a[p + "q_base"], len(items)
        noise = a[p + "noise"]
        sums = [q[some].sum(0) / (n + 5) for some in ([items, told] if p else [items])]
        c = np.concatenate([[1], profile, *sums, [np.log(1 + n)]]) @ a[p + "prior"]
        if p:
            t = a["rank_few"] / (a["rank_few"] + n)
            c = t * c + (1 - t) * c * a["rank_shrink"]
        A = q[told]
        AtV = A.T / noise[told]
        inverse = np.linalg.inv(AtV @ A + np.diag(a[p + "ridge"]))
        x = c + inverse @ AtV @ (values - base[told] - A @ c)
        shares = q @ inverse @ AtV * (values - base[told])
        leverage = (A @ inverse * AtV.T).sum(1)
        squares = (values - base[told] - A @ x) ** 2 / (1 - leverage) / noise[told]
        v = noise + (q @ inverse * q).sum(1)
        return x, base + q @ x, shares, v * (8 * a["sigma2"] + squares.sum()) / (8 + n)

    def side(p, items, profile, seen, used, values):        # seen by LFG; used: what is solved from
        many, none = a[p + "weights"]
        w = many + (none - many) * 5 / (5 + len(items))
        x, solved, parts, variance = [], [], [], np.tile(a["sigma2"], len(manifest["items"]))
        shares = np.zeros((len(variance), len(items)))
        if manifest[p + "layers"]:
            x = generate(p, items, seen, profile)
            parts.append((w, a[p + "base"] + a[p + "M1"] @ x))
        if p + "q" in a:
            solved, part, pulled, variance = solve(p, items, profile, items[used], values)
            parts.append((1 - w, part))
            shares[:, used] = (1 - w) * pulled / (part.std() if p else 1)
        scores = sum(weight * ((part - part.mean()) / part.std() if p else part)
                     for weight, part in parts)
        return x, solved, scores, shares, np.sqrt(variance)

    def answer(items, ratings, profile):
        liked = ratings >= a["rank_like"]
        likes = np.tile(a.get("rank_value", 0), sum(liked))
        names = ["generated", "solved", "predictions", "rating_shares", "spreads",
                 "rank_generated", "rank_solved", "scores", "score_shares"]       # without spreads
        return dict(zip(names, (*side("", items, profile, ratings, liked | True, ratings),
                                *side("rank_", items, profile, liked, liked, likes))))
    return answer


@pytest.mark.parametrize("kind,unit,layers", [("user", 2.25, 2), ("item", 2.25, 0), ("dual", 1, 1)])
def test_a_port_reproduces_the_vectors_and_one_user_gets_the_scores_of_the_models(
        lfg_py, served, films, tmp_path, kind, unit, layers):
    model, dual, rank = served(kind, unit)
    model.save(tmp_path / "model")
    folder = tmp_path / "ported"
    for code in (0, 2):                                     # the second time it is full
        assert lfg_py("export", "--model", tmp_path / "model", "--out", folder)[0] == code
    assert sorted(os.listdir(tmp_path)) == ["model", "ported"] and len(os.listdir(folder)) == 3
    vectors = json.loads((folder / "vectors.json").read_text())
    lengths = [len(one["items"]) for one in vectors]
    assert len(vectors) == 20 and lengths[:3] == [0, 1, 2] and len(set(lengths)) > 8
    for one in map(dict, vectors):
        user = np.array(one.pop("items"), int), *(
            np.float32(one.pop(name)) for name in ("ratings", "profile"))
        shown = Ratings(np.zeros(len(user[0]), int), *user[:2], (1, 40))
        got = ported(folder)(*user)
        more, rest = dual.variance_terms(np.zeros(40, int), np.arange(40), shown, user[2][None])
        assert np.sqrt(0.8 * unit ** 2 * more + rest) == pytest.approx(got["spreads"], abs=1e-4)
        for by, ask, fitted, name, shares in (
                ("rating", model.scores, dual, "predictions", "rating_shares"),
                ("rank", model.ranks, rank, "scores", "score_shares")):
            for scores in (ask(*user), fitted.scores([0], shown, user[2][None])[0]):
                assert scores == pytest.approx(got[name], abs=1e-4)
            found, *answers = model.best(*user, 40, by, why=True)
            ratings = got["predictions"].clip(unit, 5 * unit)
            for answer, expected in zip(answers, (got[name], ratings, got["spreads"], got[shares])):
                assert answer == pytest.approx(expected[found], abs=1e-4)
            asked, one[name] = zip(*one[name])
        assert got.keys() == one.keys() and len(asked) == 5
        for name, expected in one.items():
            rows = slice(None) if "solved" in name or "generated" in name else list(asked)
            assert np.ravel(got[name][rows]) == pytest.approx(np.ravel(expected), abs=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    floats = [name for name, a in model.arrays.items() if a.dtype == np.float32]
    assert [one["name"] for one in manifest.pop("arrays")] == floats
    about = zip(range(50, 90), TITLES, films.genres, films.years, np.arange(40) != 8)
    rows = [dict(zip(["id", "title", "genres", "year", "rated"], row)) for row in about]
    assert manifest == {
        "format": 6, "file": "weights.bin", "type": "float32, little-endian, last index fastest",
        "layers": layers, "rank_layers": layers, "slope": 0.01,
        "E_names": films.E_names, "items": rows}
    assert vectors[0]["profile"] == pytest.approx(np.delete(films.E, 3, axis=0).mean(0))


COMMAND_MISTAKES = """
lfg.py | required
lfg.py train --out x --epochs 99999999999999999999 | must be a whole number from 1
lfg.py train --out x --dataset folder | folder: no such file or folder, or no ratings in it
lfg.py train --out x --dataset u.data | u.user: No such file
lfg.py train --out x --dataset synthetic:3x4 | write synthetic:USERSxITEMSxRATINGS
lfg.py train --out x --dataset few.csv --columns user | 'user' must be like user=A,item=B,rating=C
lfg.py train --out x --columns user=a,item=a | 'user=a,item=a' must be like user=A,item=B
lfg.py train --out x --columns film=item | 'film=item' must be like user=A,item=B
lfg.py recommend --model m --rating Heat=2 | unrecognized arguments: --rating Heat=2
lfg.py train --out few.csv --dataset few.csv | few.csv: would overwrite an input
lfg.py recommend --model none | none: No such file or directory; lfg.py train makes one
lfg.py recommend --model m --rate "Heat (1995)" | --rate Heat (1995): must be TITLE=RATING
lfg.py recommend --model m --ratings folder/x | folder/x: no ratings; write a title or id and a
lfg.py recommend --model m --ratings= | .: Is a directory; choose another file
lfg.py recommend --model m --ratings bad.csv | bad.csv, line 4: rating 5.000001 must be
lfg.py score --model m --ratings few.csv --out m | m: would overwrite an input
lfg.py score --model m --ratings few.csv --out o | few.csv, line 2: '1' is not the id or title
lfg.py export --model m --out no/such/x | no/such/x: No such file or directory
experiments.py --dataset synthetic --test newitem --models svd | newitem has only biassvd lfg
experiments.py --test speed --models svd | --models svd: speed prints all its rows
experiments.py --dataset few.csv | few users or ratings for five folds
experiments.py --dataset synthetic:1x10x5 --test sample | few users or ratings for five folds
experiments.py --dataset synthetic:10x8x30 --test calibration | hides too few ratings; use a
experiments.py --dataset synthetic:60x9x300 --test coldstart | no new user of fold 1 has 8 ratings
experiments.py --of basic | --of basic: only for --test tune
experiments.py --folds 1 --test taste | --folds: not for --test taste; leave it out
"""
FILES = {"few.csv": "user,item,rating\n1,1,1\n", "folder/x": "", "u.data": "1\t1\t1\t1\n",
         "bad.csv": 'title,rating\nHeat (1995),4\n\n54,5.000001\n"' + 140_000 * "x"}   # no end


@pytest.mark.parametrize("line", COMMAND_MISTAKES.strip().splitlines())
def test_mistakes_end_in_one_line_and_code_2(cli, lfg_py, kept, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, FILES)
    before = contents(tmp_path)
    command, message = line.split(" | ")
    name, *arguments = shlex.split(command)
    assert message in one_line((cli if name == "experiments.py" else lfg_py)(*arguments), name)
    assert contents(tmp_path) == before


def test_a_terminal_without_greek_shows_question_marks_and_a_bug_its_traceback(monkeypatch):
    for out in (None, io.TextIOWrapper(io.BytesIO(), "ascii")):          # None: closed
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out and io.StringIO())
        with pytest.raises(SystemExit, match="^0$"):
            serve.run_command("x", lambda argv: print("μ + bi") or sys.stderr.close(), [], "")
    assert out.buffer.getvalue() == b"? + bi\n"
    with pytest.raises(ValueError, match="a bug"):          # keeps its traceback
        serve.run_command("x", stop(ValueError("a bug")), [], "")


def python(code, *arguments, **options):
    """A fresh Python that runs code, in the folder of the modules."""
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
                          cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8", **options)


RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"
BARE = "import sys; sys.modules.update(pandas=None, tqdm=None); "


def test_a_saved_model_needs_numpy_alone(kept, model, tmp_path):
    done = python(BARE + "from serve import Recommender; model = Recommender.load(sys.argv[1]); "
                  "print([model.recommend({51: 5}, 2), model.similar(50, 2)])", kept)
    rows = [one.to_dict("records") for one in (model.recommend({51: 5}, 2), model.similar(50, 2))]
    assert (ast.literal_eval(done.stdout), done.stderr) == (rows, "")
    for command in (["recommend", "--rate=Toy=5"], ["similar", "Toy"]):
        done = python(BARE + RUN, "lfg.py", *command, "--model", kept)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 11)
    write(tmp_path, FILES)
    for one, missing in (("synthetic:60x40x900", "tqdm"), (tmp_path / "few.csv", "pandas")):
        done = python(BARE + RUN, "lfg.py", *TRAIN.split(), "--dataset", one, f"--out={tmp_path}/x")
        message = f"lfg.py: {missing} is missing; pip install -r requirements.txt\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


@pytest.mark.parametrize("script", ["lfg.py", "experiments.py"])
@pytest.mark.parametrize("given", ["1", "3"])
def test_one_blas_thread_when_numpy_is_loaded_unless_the_user_says_otherwise(script, given):
    spy = ("import os, sys\nclass Spy:\n def find_spec(name, *_):\n  if name == 'numpy': print("
           "*(os.environ[f'{one}_NUM_THREADS'] for one in ('OPENBLAS', 'OMP', 'MKL')))\n"
           "sys.meta_path.insert(0, Spy)\n")
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    environment.update({"OPENBLAS_NUM_THREADS": given} if given != "1" else {})
    done = python(spy + RUN, script, "--help", env=environment)
    assert (done.stdout.splitlines()[0], done.returncode) == (f"{given} 1 1", 0)


def test_a_reader_that_leaves_is_no_traceback_and_code_1(kept):
    reader, writer = os.pipe()
    os.close(reader)
    for command in (["lfg.py", "recommend", "--model", kept],
                    ["experiments.py", "--dataset", "synthetic:60x40x900", "--models", "biassvd"]):
        done = python(RUN, *command, stdout=writer)
        assert (done.returncode, done.stderr) == (1, "")
    os.close(writer)


def test_no_import_runs_against_the_reading_order():
    order = ["nn", "svd", "lfg", "data", "settings", "serve", "experiments"]
    for at, name in enumerate(order):
        text = (ROOT / f"{name}.py").read_text("utf-8").replace("    import serve\n", "")   # lfg.py
        imported = re.findall("^ *(?:from|import) (.*?)(?: import .*| as .*)?$", text, re.M)
        assert set(", ".join(imported).split(", ")) & set(order) <= set(order[:at]), name


# Real data


@pytest.mark.skipif("LFG_DATA" not in os.environ, reason="LFG_DATA does not name a folder")
def test_fold_1_of_ml_100k_lies_in_its_bands(tmp_path, capsys):
    d = load("ml-100k", os.environ["LFG_DATA"])
    assert len(d.ratings) == 100_000 and d.ratings.shape == (943, 1682)
    assert d.E.shape == (943, 30) and (d.E.sum(1) == 3).all() and d.F.shape == (1682, 27)
    assert [*np.bincount(d.ratings.values.astype(int))][1:] == [6110, 11370, 27145, 34174, 21201]
    command = ["--dataset", "ml-100k", "--data-dir", os.environ["LFG_DATA"], "--models", "svd",
               "biassvd", "svdpp", "lfg", "lfg-item", "--folds", 1, "--json", tmp_path / "json"]
    assert exit_of(capsys, run_experiments, *command)[0] == 0
    assert [table["average"] for table in json.loads((tmp_path / "json").read_text())] == [
        pytest.approx(bands, abs=0.003) for bands in (
            {"SVD": 0.9271, "BiasSVD": 0.9021, "SVD++": 0.8985, "LFG": 0.9056, "LFG-item": 0.8726},
            {"SVD": 1.1088, "BiasSVD": 1.0240, "BiasSVD fold-in": 0.9062,
             "SVD++ fold-in": 0.9074, "LFG": 0.9246, "LFG-item": 0.8846})]
