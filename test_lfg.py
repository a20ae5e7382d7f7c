"""Tests of nn.py, svd.py, lfg.py, experiments.py and data.py, in this order. No network.

With LFG_DATA naming a folder that holds ml-100k, the real data is read and its figures are checked as well.
"""

import ast
import codecs
import csv
import hashlib
import inspect
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from email import message_from_string
from pathlib import Path
from urllib.response import addinfourl
from xml.etree import ElementTree

import numpy as np
import pytest

import data
import experiments
from data import DataError, first_ratings, load, split, synthetic
from experiments import item_side
from lfg import LFG, Recommender, assemble, facts, joining_weight, write_whole
from lfg import main as lfg_main
from nn import Adam, BatchNorm, Dropout, LeakyReLU, Linear, Sequential, Tanh, cosine, masked_mse
from svd import SVD, BiasSVD, Ratings, SVDpp, fold_in, truncated_svd

# Layers


def check_gradients(loss, arrays, gradients):
    """Against central differences of loss() by each of the arrays (float64, changed in place and put back)."""
    assert len(arrays) == len(gradients)
    for n, (x, gradient) in enumerate(zip(arrays, gradients)):
        assert x.dtype == np.float64 and x.shape == gradient.shape
        expected = np.empty_like(x)
        for at in np.ndindex(*x.shape):
            old, values = x[at], []
            for x[at] in (old + 1e-6, old - 1e-6):
                values.append(loss())
            expected[at], x[at] = (values[0] - values[1]) / 2e-6, old
        scale = np.abs(expected).max()
        assert scale > 1e-3 and np.abs(gradient - expected).max() < 1e-6 * scale, f"array {n}"


def linear(n_in, n_out, seed=2):
    layer = Linear(n_in, n_out, np.random.default_rng(seed), np.float64)
    layer.b += np.random.default_rng(seed).normal(size=n_out)
    return layer


def batch_norm(n):
    layer = BatchNorm(n, dtype=np.float64)
    layer.gain += np.linspace(-0.5, 2, n)
    layer.shift -= np.linspace(-1, 2, n)
    return layer


LAYERS = {"Linear": lambda: linear(4, 3), "LeakyReLU": lambda: LeakyReLU(0.1), "Tanh": Tanh,
          "BatchNorm": lambda: batch_norm(4), "Dropout": lambda: Dropout(0.4, None)}


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_of_a_layer(layer):
    layer, rng = LAYERS[layer](), np.random.default_rng(0)
    x = rng.normal(size=(5, 4))

    def forward():
        layer.rng = np.random.default_rng(1)                # Dropout drops the same values each time
        return layer.forward(x, training=True)

    y, cache = forward()
    dy = rng.normal(size=y.shape)
    dx, grads = layer.backward(dy, cache)
    check_gradients(lambda: (forward()[0] * dy).sum(), [x] + list(layer.params), [dx] + grads)


def test_gradients_of_a_sequential():
    rng = np.random.default_rng(0)
    network = Sequential(linear(3, 4), LeakyReLU(), batch_norm(4), linear(4, 2, seed=3), Tanh())
    x, dy = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    grads = network.backward(dy, network.forward(x, training=True)[1])
    assert len(network.params) == 6
    check_gradients(lambda: (network.forward(x, training=True)[0] * dy).sum(), network.params, grads)


def test_gradient_of_masked_mse():
    rng = np.random.default_rng(0)
    prediction, row, column = rng.normal(size=(5, 3)), np.array([0, 0, 3, 1]), np.array([0, 2, 1, 1])
    target = rng.normal(size=4)
    for weight in (1, rng.random(4)):
        loss, gradient = masked_mse(prediction, row, column, target, weight)
        assert loss == pytest.approx((weight * (prediction[row, column] - target) ** 2).sum() / 5)
        check_gradients(lambda w=weight: masked_mse(prediction, row, column, target, w)[0], [prediction], [gradient])


def test_layers_worked_by_hand():
    x = np.array([[-2.0, 3]])
    assert LeakyReLU(0.1).forward(x)[0].tolist() == [[-0.2, 3]]
    assert Tanh().forward(np.log([[2.0]]))[0] == pytest.approx(0.6)        # (2 - 1/2) / (2 + 1/2)
    layer = Linear(2, 1, np.random.default_rng(0))
    layer.W[:], layer.b[:] = [[5], [7]], 1
    assert layer.forward(x)[0].tolist() == [[12]]                          # -2 * 5 + 3 * 7 + 1
    assert np.array_equal(Dropout(0.4, np.random.default_rng(0)).forward(x, training=False)[0], x)
    y = Dropout(0.4, np.random.default_rng(0)).forward(np.ones((100, 100)), training=True)[0]
    assert set(np.unique(y.round(6))) == {0, 1.666667} and abs((y == 0).mean() - 0.4) < 0.02


def test_a_linear_starts_in_the_slope_of_a_tanh_behind_it():
    layer = Linear(300, 200, np.random.default_rng(0))
    assert layer.W.std() == pytest.approx(1 / 30, rel=0.01) and not layer.b.any()            # sqrt(1 / (3 * 300))


def test_batch_norm_while_training_and_after():
    layer = BatchNorm(1, momentum=0.25, dtype=np.float64)
    layer.gain[:], layer.shift[:] = 3, 1
    x = np.array([[0.0], [4]])                              # mean 2, variance 4: normal (x - 2) / 2 = -1, 1
    assert layer.forward(x, training=True)[0] == pytest.approx(np.array([[-2], [4]]), abs=1e-4)      # 3 normal + 1
    assert (layer.mean[0], layer.var[0]) == (0.5, 1.75)     # 0 + (2 - 0) / 4, 1 + (4 - 1) / 4
    layer.forward(x, training=True)
    assert (layer.mean[0], layer.var[0]) == (0.875, 2.3125)                # 0.5 + 1.5 / 4, 1.75 + 2.25 / 4
    layer.var[:] = 0.25
    y = layer.forward(x, training=False)[0]                 # 3 (x - 0.875) / 0.5 + 1 = 6 x - 4.25
    assert y == pytest.approx(np.array([[-4.25], [19.75]]), abs=1e-3)
    assert (layer.mean[0], layer.var[0]) == (0.875, 0.25)   # as they were
    assert layer.forward(x[1:], training=False)[0] == y[1]  # whoever else is in the batch


def test_two_steps_of_adam_worked_by_hand():
    p, free = np.array([1.0]), np.array([1.0])
    adam = Adam([p, free], l2=[0.5, 0], b1=0.5, b2=0.75, eps=1)
    # g = 2 + 2 * 0.5 * 1 = 3;  m = 1.5, m' = 1.5 / (1 - 0.5) = 3;  v = 9 / 4, v' = 2.25 / (1 - 0.75) = 9
    # p = 1 - 0.1 * 3 / (3 + 1) = 0.925; without the penalty g = m' = 2, v' = 4: 1 - 0.1 * 2 / (2 + 1)
    adam.step([np.array([2.0]), np.array([2.0])], rate=0.1)
    assert p == pytest.approx(0.925) and free == pytest.approx(1 - 0.2 / 3)
    # g = -1.025 + 0.925 = -0.1;  m = 0.75 - 0.05 = 0.7, m' = 0.7 / (1 - 0.25);  v = 0.75 * 2.25 + 0.01 / 4 = 1.69,
    # v' = 1.69 / (1 - 0.5625), sqrt(v') = 1.3 / (sqrt(7) / 4); p = 0.925 - 0.1 * 0.9333 / (1.9654 + 1) = 0.89353
    adam.step([np.array([-1.025]), np.array([0.0])], rate=0.1)
    assert p == pytest.approx(0.925 - 0.1 * (0.7 / 0.75) / (5.2 / 7 ** 0.5 + 1))


def test_adam_steps_a_long_array_like_a_short_one():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=10), rng.normal(size=(3, 10))
    short, long = start.copy(), np.tile(start, (Adam.chunk // 4 + 1, 1))   # 2 chunks and a half
    adams = Adam([short], l2=0.1), Adam([long], l2=0.1)
    for g in gradients:
        adams[0].step([g.copy()], rate=0.1)
        adams[1].step([np.tile(g, (len(long), 1))], rate=0.1)
    assert np.abs(short - start).min() > 1e-3 and np.abs(long - short).max() < 1e-12


def test_cosine_runs_from_one_to_zero():
    assert [cosine(p) for p in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])


# Matrix factorization


@pytest.fixture(scope="module")
def small():
    return synthetic(60, 40, 900, seed=1)


def random_ratings(n_users, n_items, share=1, rank=None):
    """Ratings at a share of the places, and the dense matrix they make; of a rank where all are observed."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n_users, n_items))
    if rank is not None:
        dense = rng.normal(size=(n_users, rank)) @ rng.normal(size=(rank, n_items))
    seen = rng.random(dense.shape) < share
    return Ratings(*np.nonzero(seen), dense[seen], dense.shape), np.where(seen, dense, 0)


@pytest.mark.parametrize("shape,k", [((60, 45), 5), ((700, 30), 8), ((30, 600), 30), ((520, 90), 1)])
def test_truncated_svd_against_numpy(shape, k):
    R, dense = random_ratings(*shape, share=0.3)
    U, S, Vt = np.linalg.svd(dense, full_matrices=False)
    left, right = truncated_svd(R, k)
    assert left.shape == (shape[0], k) and right.shape == (k, shape[1]) and left.dtype == right.dtype == np.float32
    for lengths in (np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)):
        assert lengths ** 2 == pytest.approx(S[:k], rel=1e-4)              # each side has the root of S
    best = U[:, :k] * S[:k] @ Vt[:k]
    assert np.linalg.norm(left @ right - best) < 0.01 * np.linalg.norm(best)


@pytest.mark.parametrize("shape,rank", [((40, 30), 3), ((4, 30), 4), ((30, 4), 4), ((1, 1), 1), ((5, 6), 0)])
def test_truncated_svd_finds_a_planted_matrix_and_is_zero_past_its_rank(shape, rank):
    R, dense = random_ratings(*shape, rank=rank)            # rank 0: all ratings are 0
    left, right = truncated_svd(R, 50)
    assert left.shape == (shape[0], 50) and right.shape == (50, shape[1])
    assert not left[:, rank:].any() and not right[rank:].any()
    assert np.abs(left @ right - dense).max() < 1e-4        # finite, too


SEVEN = Ratings([0, 0, 0, 1, 3, 3, 4], [0, 1, 3, 2, 0, 3, 2], [5, 3, 4, 1, 2, 5, 4], (5, 4))


@pytest.mark.parametrize("users,items,values,message", [
    ([0, 5], [0, 0], [1, 2], r"outside of \(5, 4\)"), ([0, -1], [0, 0], [1, 2], "outside"), ([0], [4], [1], "outside"),
    ([0], [-1], [1], "outside"), ([0, 1], [0, 1], [1, np.nan], "not finite"),
    ([2, 0, 2], [1, 0, 1], [1, 2, 3], "twice"),
    ([0, 1], [0, 1], [1], "2 users, 2 items, 1 ratings"), ([0], [0], [1, 2], "1 users, 1 items, 2 ratings")])
def test_what_makes_no_matrix_is_refused(users, items, values, message):
    with pytest.raises(DataError, match=message):
        Ratings(users, items, values, (5, 4))


@pytest.mark.parametrize("cls,settings", [(BiasSVD, dict(l2=0.7, l2_bias=0.3)), (SVD, dict(l2=0.7)),
                                          (SVDpp, dict(l2=0.7, l2_bias=0.3))])
def test_gradients_of_matrix_factorization(cls, settings):
    model, rng = cls(n_factors=2, epochs=0, seed=0, **settings).fit(SEVEN), np.random.default_rng(1)
    model.q, model.bi, p, bu, y = (rng.normal(size=size) for size in ((4, 2), 4, (3, 2), 3, (4, 2)))
    if cls is SVDpp:
        model.y = y
    else:
        y[:] = 0
    row, item, value = SEVEN.rows(np.array([3, 2, 0]))      # user 2 has no ratings
    l2, l2_bias, share = 0.7, settings.get("l2_bias", 0), 0.6
    root_u, root_i = np.sqrt([2, 0, 3]), np.sqrt([2, 1, 2, 2])             # ratings in the block, in all

    def errors():
        x = p + [(y[0] + y[3]) / 2 ** 0.5, [0, 0], (y[0] + y[1] + y[3]) / 3 ** 0.5]
        return model.mu + bu[row] + model.bi[item] + (x[row] * model.q[item]).sum(1) - value

    def loss():
        users = root_u @ (l2 * (p ** 2).sum(1) + l2_bias * bu ** 2)
        items = root_i @ (l2 * (model.q ** 2 + y ** 2).sum(1) + l2_bias * model.bi ** 2)
        return ((errors() ** 2).sum() + users + share * items) / 3

    error, (dp, dbu, dq, dbi, *dy) = model.gradients((row, item, value), p, bu, share)
    assert error == pytest.approx((errors() ** 2).sum()) and not dp[1].any() and not dbu[1].any()
    check_gradients(loss, [p, model.q] + [y] * (cls is SVDpp), [dp, dq] + dy)
    if cls is SVD:
        assert dbu.shape == (3,) and dbi.shape == (4,) and not dbu.any() and not dbi.any()
    else:
        check_gradients(loss, [bu, model.bi], [dbu, dbi])


def test_bias_svd_gradient_worked_by_hand():
    model = BiasSVD(n_factors=1, l2=0.5, l2_bias=0.25, epochs=0).fit(Ratings([0, 0], [0, 1], [5, 1], (1, 2)))
    assert model.mu == 3
    p, bu, model.q, model.bi = np.array([[1.0]]), np.array([0.5]), np.array([[2.0], [-1]]), np.array([0.25, -0.5])
    # predictions 3 + 0.5 + 0.25 + 1 * 2 = 5.75 and 3 + 0.5 - 0.5 + 1 * -1 = 2: errors 0.75 and 1, d = 1.5 and 2
    # squared error 0.5625 + 1; the user's two ratings weigh sqrt(2), an item's one 1 times the share, here 1/2
    error, (dp, dbu, dq, dbi) = model.gradients((np.array([0, 0]), np.array([0, 1]), np.array([5, 1])), p, bu, 0.5)
    assert error == pytest.approx(1.5625)
    assert dp[0] == pytest.approx(1 + 2 ** 0.5)             # 1.5 * 2 + 2 * -1 + 2 * 0.5 * sqrt(2) * 1
    assert dbu == pytest.approx(3.5 + 0.25 * 2 ** 0.5)      # 1.5 + 2 + 2 * 0.25 * sqrt(2) * 0.5
    assert dq[:, 0] == pytest.approx([2.5, 1.5])            # 1.5 * 1 + 2 * 0.5 * 2 / 2, 2 * 1 + 2 * 0.5 * -1 / 2
    assert dbi == pytest.approx([1.5625, 1.875])            # 1.5 + 2 * 0.25 * 0.25 / 2, 2 + 2 * 0.25 * -0.5 / 2


def test_bias_svd_finds_a_planted_matrix_from_half_of_it():
    rng = np.random.default_rng(0)
    planted = 3 + 0.5 * rng.normal(size=(300, 1)) + 0.5 * rng.normal(size=80)                # users of three blocks
    planted += rng.normal(size=(300, 2)) @ rng.normal(size=(2, 80))
    seen = rng.random(planted.shape) < 0.5
    model = BiasSVD(n_factors=2, l2=0.02, l2_bias=0.02, epochs=100, rate=0.01, start=0.1, seed=0)
    model.fit(Ratings(*np.nonzero(seen), planted[seen], planted.shape))
    error = model.predict(*np.nonzero(~seen)) - planted[~seen]
    assert planted[~seen].std() > 1.5 and np.sqrt(np.mean(error ** 2)) < 0.15


@pytest.mark.parametrize("cls", [SVD, BiasSVD, SVDpp])
def test_matrix_factorization_starts_at_a_share_of_the_truncated_svd_of_the_deviations(cls):
    R, dense = random_ratings(60, 45, share=0.3)
    U, S, Vt = np.linalg.svd(dense - R.values.mean() * (dense != 0))
    model = cls(n_factors=5, start=0.5, epochs=0).fit(R.with_values(R.values + 3))
    assert model.p @ model.q.T == pytest.approx(0.25 * U[:, :5] * S[:5] @ Vt[:5], abs=1e-3)  # the share of p and of q


@pytest.mark.parametrize("cls", [SVD, BiasSVD, SVDpp])
def test_an_epoch_takes_each_user_and_the_penalty_on_items_once_and_tells_the_error(cls):
    R, told = random_ratings(300, 20, share=0.3)[0], []     # users of three blocks
    model = cls(n_factors=2, epochs=2, rate=0)              # stays where it starts
    calls = record(model, "gradients")
    model.fit(R, progress=lambda *epoch: told.append(epoch))
    mse = np.mean((model.predict(R.users, R.items) - R.values) ** 2)
    assert told == [(0, pytest.approx(mse, rel=1e-4)), (1, pytest.approx(mse, rel=1e-4))] and len(calls) == 6
    for epoch in (calls[:3], calls[3:]):
        values = np.concatenate([ratings[2] for (ratings, *_), _ in epoch])
        assert np.array_equal(np.sort(values), np.sort(R.values))
        assert sum(share for (*_, share), _ in epoch) == pytest.approx(1)


def test_svdpp_worked_by_hand():
    R = Ratings([0, 0], [0, 2], [5, 1], (2, 3))             # user 1 has no ratings
    model = SVDpp(n_factors=1, epochs=0).fit(R)
    model.y[:] = [[1], [2], [4]]
    assert model.z(R)[:, 0] == pytest.approx([5 / 2 ** 0.5, 0])            # (1 + 4) / sqrt(2)


def test_svdpp_predicts_with_p_and_z_in_sum(small):
    model, bare = (SVDpp(n_factors=3, epochs=3, rate=0.02) for _ in range(2))
    bare.z = lambda R: 0                                    # p as trained
    bare.fit(small.ratings)
    users, items = np.repeat(np.arange(60), 40), np.tile(np.arange(40), 60)
    predicted = model.fit(small.ratings).predict(users, items).reshape(60, 40)
    z = np.array([model.y[small.ratings.items[small.ratings.users == u]].sum(0) for u in range(60)])
    z /= np.sqrt(np.maximum(small.ratings.counts, 1))[:, None]
    assert np.abs(z).max() > 0.01 < np.abs(bare.p).max() and np.abs(model.z(small.ratings) - z).max() < 1e-5
    assert predicted == pytest.approx(model.mu + model.bu[:, None] + model.bi + (bare.p + z) @ model.q.T, abs=1e-5)


def test_a_new_user_is_a_placeholder(small):
    train, profile, target = split(small.ratings, "realtime", 2, seed=0)
    svd, *biased = (cls(n_factors=3, epochs=3).fit(train) for cls in (SVD, BiasSVD, SVDpp))
    assert (svd.predict(target.users, target.items) == svd.mu).all() and svd.mu == pytest.approx(train.values.mean())
    for model in biased:
        assert (model.predict(target.users, target.items) == model.mu + model.bi[target.items]).all()
        assert np.unique(model.bi[target.items]).size > 10


def test_no_pairs_have_no_predictions(small):
    nobody = np.zeros(0, int)
    assert BiasSVD(n_factors=2, epochs=0).fit(small.ratings).predict(nobody, nobody).shape == (0,)
    assert lfg(epochs=0).fit(small.ratings, small.E).predict(nobody, nobody, small.ratings, small.E).shape == (0,)


@pytest.mark.parametrize("q,bi,ratings,settings,p,b", [
    # 5 - 3 - 0.5 = 1.5: (4 + 2) p + 2 b = 2 * 1.5 and 2 p + (1 + 1) b = 1.5, so p = 1.5 / 4, b = 0.75 - p
    ([2], [0.5], [5], dict(l2=2, l2_bias=1), 0.375, 0.375),
    # from p = 1 what is left is 1.5 - 2 = -0.5: the same with -0.5 for 1.5: p = 1 - 0.5 / 4, b = -0.5 / 4
    ([2], [0.5], [5], dict(l2=2, l2_bias=1, centre=np.array([[1]])), 0.875, -0.125),
    # 2 and 2 - 3 - 0.5 = -1.5: (1 + 4 + 1) p + 3 b = 2 - 3, 3 p + (2 + 1) b = 0.5, so 3 p = -1.5, b = (0.5 + 1.5) / 3
    ([1, 2], [0, 0.5], [5, 2], dict(l2=1, l2_bias=1), -0.5, 2 / 3)], ids=["one item", "centre", "two items"])
def test_fold_in_worked_by_hand(q, bi, ratings, settings, p, b):
    R = Ratings([0] * len(q), range(len(q)), ratings, (1, len(q)))
    got = fold_in(R, np.array(q, float)[:, None], np.array(bi, float), 3.0, **settings)
    assert (got[0].shape, got[1].shape) == ((1, 1), (1,)) and (got[0][0, 0], got[1][0]) == pytest.approx((p, b))


@pytest.mark.parametrize("l2", [0.7, 1e9])
def test_fold_in_is_where_its_gradient_vanishes(l2):
    rng = np.random.default_rng(0)
    q, bi, centre, mu = rng.normal(size=(8, 3)), rng.normal(size=8), rng.normal(size=(6, 3)), 3.5
    seen = rng.random((6, 8)) < 0.5
    seen[2] = False
    h = rng.integers(1, 6, seen.shape)
    p, b = fold_in(Ratings(*np.nonzero(seen), h[seen], seen.shape), q, bi, mu, l2, 2 * l2, centre)
    error = np.where(seen, mu + b[:, None] + bi + p @ q.T - h, 0)
    assert np.abs(error @ q / l2 + p - centre).max() < 1e-12               # halves of the gradient, over l2
    assert np.abs(error.sum(1) / l2 + 2 * b).max() < 1e-12
    assert np.array_equal(p[2], centre[2]) and b[2] == 0 and seen.any(1).sum() == 5
    assert (np.abs(p - centre).max() < 1e-6) == (l2 == 1e9) == (np.abs(b).max() < 1e-6)


def profiles_of_each_length():
    """Ratings of users 0 to 12, n by user n, of 12 items; and what factors of 4 a fold-in needs, float64."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(13), np.arange(13))
    items = np.concatenate([rng.permutation(12)[:n] for n in range(13)])
    R = Ratings(users, items, rng.integers(1, 6, len(users)), (13, 12))
    return R, rng.normal(size=(12, 4)), rng.normal(size=12), 3.5, rng.normal(size=4)


@pytest.mark.parametrize("l2,l2_bias", [(0.7, 0.3), (512, 3)])
def test_fold_in_of_short_and_long_profiles_satisfies_the_normal_equations(l2, l2_bias):
    R, q, bi, mu, centre = profiles_of_each_length()
    p, b = fold_in(R, q, bi, mu, l2, l2_bias, centre=centre, centre_bias=0.4)
    error = np.zeros(R.shape)
    error[R.users, R.items] = (mu + b[:, None] + bi + p @ q.T)[R.users, R.items] - R.values
    assert np.abs(error @ q + l2 * (p - centre)).max() < 1e-10             # halves of the gradient
    assert np.abs(error.sum(1) + l2_bias * (b - 0.4)).max() < 1e-10
    assert np.array_equal(p[0], centre) and b[0] == 0.4 and np.abs(p[1:] - centre).max(1).min() > 1e-4


@pytest.mark.parametrize("l2,l2_bias", [(0.7, 0.3), (512, 3)])
def test_fold_in_solves_by_ratings_or_by_factors_to_one_answer(l2, l2_bias):
    R, q, bi, mu, centre = profiles_of_each_length()
    q, bi, centre, more = (x.astype(np.float32) for x in (q, bi, centre, np.zeros((12, 8))))
    p, b = fold_in(R, q, bi, np.float32(mu), l2, l2_bias, centre=centre, centre_bias=0.4)    # by factors from 5 ratings
    wide, wide_b = fold_in(R, np.hstack([q, more]), bi, np.float32(mu), l2, l2_bias,         # by ratings up to 12
                           centre=np.append(centre, more[0]), centre_bias=0.4)
    assert p.dtype == wide.dtype == np.float32 and not wide[:, 4:].any()
    assert np.abs(wide[:, :4] - p).max() < 1e-4 * np.abs(p).max() and np.abs(wide_b - b).max() < 1e-4 * np.abs(b).max()


def test_fold_in_recovers_planted_users():
    rng = np.random.default_rng(0)
    q, bi, p, b = (rng.normal(size=size).astype(np.float32) for size in ((30, 3), 30, (5, 3), 5))
    seen = rng.random((5, 30)) < 0.7
    R = Ratings(*np.nonzero(seen), (3 + b[:, None] + bi + p @ q.T)[seen], seen.shape)
    for got, planted in zip(fold_in(R, q, bi, np.float32(3), l2=1e-4, l2_bias=1e-4, centre=p[::-1]), (p, b)):
        assert got.dtype == np.float32 and np.abs(got - planted).max() < 1e-3


# LFG


def record(owner, name, setattr=setattr):
    """From now on each call of a method or a module's function adds (arguments, result) to the list this returns."""
    method, calls = getattr(owner, name), []

    def recording(*arguments, **options):
        calls.append((arguments, method(*arguments, **options)))
        return calls[-1][1]

    setattr(owner, name, recording)
    return calls


def lfg(**settings):
    return LFG(**{**dict(n_factors=3, hidden=(8,), l2=0.005, l2_M=0.2, mask=0.2, dropout=0.3, svd_rows=3, epochs=3,
                         rate=0.01, batch=16, seed=0), **settings})


def test_gradients_of_the_whole_lfg():
    rng = np.random.default_rng(1)
    E = rng.integers(2, size=(5, 3)).astype(float)
    model = lfg(hidden=(6, 5), dropout=0, epochs=0, dtype=np.float64).fit(SEVEN, E)
    model.bi += rng.normal(size=4)
    row, item, value = SEVEN.rows(np.array([3, 2, 0, 4]))   # user 2 has no ratings
    kept = np.array([1, 0, 1, 1, 0, 1], bool)
    inputs = model.encode(row[kept], item[kept], value[kept], E[[3, 2, 0, 4]])
    assert inputs.shape == (4, 11)

    def loss():
        G = model.network.forward(inputs, training=True)[0]
        predicted = model.mu + G[row, 3] + model.bi[item] + (G[row, :3] * model.M[:, item].T).sum(1)
        return ((predicted - value) ** 2).sum() / 4

    mse, grads = model.gradients(inputs, row, item, value)
    assert mse == pytest.approx(loss()) and len(grads) == 10               # 3 Linear, 1 BatchNorm, M, bi
    check_gradients(loss, model.network.params + [model.M, model.bi], grads)


def test_lfg_encodes_profile_and_ratings_as_by_hand():
    # mu = 4; mean deviations, shrunk as by five ratings at 0: (1 + 1) / (2 + 5), -2 / (1 + 5), nobody rated item 2
    model = lfg(epochs=0, dtype=np.float64).fit(Ratings([0, 0, 1], [0, 1, 0], [5, 2, 5], (2, 3)), np.zeros((2, 2)))
    E, root = np.array([[0, 1], [1, 1], [0, 0]]), 0.5 ** 0.5               # the first user has two ratings, 5 and 1
    inputs = model.encode(np.array([0, 0, 2]), np.array([0, 2, 1]), np.array([5, 1, 3]), E)
    assert inputs == pytest.approx(np.array([               # E, ratings - mu - item's deviation, which are rated
        [0, 1, (5 - 4 - 2 / 7) * root, 0, (1 - 4) * root, root, 0, root],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 3 - 4 + 1 / 3, 0, 0, 1, 0]]), abs=1e-6)


def test_lfg_masks_a_share_of_its_input_and_none_of_its_target(small):
    shares = []
    for mask in (0, 0.3):
        model = lfg(mask=mask, epochs=10)
        calls = record(model, "gradients")
        model.fit(small.ratings, small.E)
        seen = sum(np.count_nonzero(inputs[:, small.E.shape[1] + 40:]) for (inputs, *_), _ in calls)
        assert sum(len(row) for (_, row, *_), _ in calls) == 10 * len(small.ratings)
        shares.append(1 - seen / (10 * len(small.ratings)))
    assert shares[0] == 0 and abs(shares[1] - 0.3) < 0.02   # deviation 0.005


@pytest.mark.parametrize("mask,low,high", [((1.0, 1.0), 0, 0), ((0.0, 0.0), 1, 1), ((0.2, 0.4), 0.6, 0.8)])
def test_lfg_masks_between_the_ends_of_a_range(mask, low, high):
    R, E = random_ratings(20, 1000)[0], np.ones((20, 1), np.float32)
    model = lfg(mask=mask)
    calls = record(model, "encode")
    model.fit(R, E)
    shares = np.concatenate([np.bincount(row, minlength=10) / 1000 for (row, *_), _ in calls])
    assert shares.shape == (3 * 20,) and np.isfinite(model.predict(R.users, R.items, R, E)).all()
    slack = 0.07 * (low < high)                             # 4.5 deviations
    assert low - slack <= shares.min() and shares.max() <= high + slack and np.ptp(shares) >= high - low - slack


def test_with_a_range_each_user_of_a_batch_has_a_mask_of_its_own(small):
    deviations = []
    for mask in (0.5, (0.0, 1.0)):
        model = lfg(mask=mask, epochs=10)
        calls = record(model, "gradients")
        model.fit(small.ratings, small.E)
        shares = [np.count_nonzero(inputs[:, small.E.shape[1] + 40:], axis=1) / np.bincount(row)
                  for (inputs, row, *_), _ in calls]
        assert abs(np.concatenate(shares).mean() - 0.5) < 0.05
        deviations.append(np.mean([batch.std() for batch in shares]))
    assert deviations[0] < 0.17 and deviations[1] > 0.25    # of 15 coins; and of the uniform distribution, 0.29, too


def test_raw_lfg_encodes_ratings_as_they_are_and_no_indicator():
    model = lfg(epochs=0, raw=True).fit(Ratings([0, 0, 1], [0, 1, 0], [5, 2, 5], (2, 3)), np.zeros((2, 2)))
    E = np.array([[0, 1], [1, 1], [0, 0]])
    inputs = model.encode(np.array([0, 0, 2]), np.array([0, 2, 1]), np.array([5, 1, 3]), E)
    assert inputs.tolist() == [[0, 1, 5, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 3, 0]]


def test_raw_lfg_starts_M_at_the_full_truncated_svd_of_the_ratings():
    R, dense = random_ratings(30, 20, share=0.4)
    model = lfg(n_factors=5, svd_rows=2, epochs=0, raw=True).fit(R, np.zeros((30, 1)))
    _, S, Vt = np.linalg.svd(dense)
    assert model.M.shape == (5, 20) and model.M.dtype == np.float32
    assert model.M.T @ model.M == pytest.approx(Vt[:5].T * S[:5] @ Vt[:5], abs=1e-3)         # sqrt(S) Vt but for signs


def test_lfg_starts_rows_of_M_at_the_truncated_svd_of_what_item_means_leave():
    R, dense = random_ratings(30, 20, share=0.4)
    model = lfg(n_factors=8, svd_rows=3, epochs=0).fit(R, np.zeros((30, 1)))
    seen = dense != 0
    left = (dense - R.values.mean()) * seen
    left -= left.sum(0) / (seen.sum(0) + 5) * seen          # an item's mean deviation, shrunk as by five ratings at 0
    _, S, Vt = np.linalg.svd(left)
    expected = 0.3 ** 2 * Vt[:3].T * S[:3] @ Vt[:3]         # (0.3 sqrt(S) Vt)t of the same, but for signs
    assert model.M[:3].T @ model.M[:3] == pytest.approx(expected, abs=1e-3)
    assert 0.005 < model.M[3:].std() < 0.02                 # noise


def test_lfg_predicts_from_an_empty_profile_what_side_information_and_bi_say(small):
    model, nothing = lfg().fit(small.ratings, small.E), small.ratings.where(np.zeros(900, bool))
    users, items = np.repeat(np.arange(60), 40), np.tile(np.arange(40), 60)
    predicted = model.predict(users, items, nothing, small.E).reshape(60, 40)
    G = model.network.forward(np.hstack([small.E, np.zeros((60, 80), np.float32)]))[0]
    assert predicted == pytest.approx(model.mu + G[:, 3:] + model.bi + G[:, :3] @ model.M, abs=1e-5)
    assert np.isfinite(predicted).all() and np.ptp(predicted, axis=0).min() > 0


def test_a_rating_that_the_input_shows_weighs_shown_weight_and_a_hidden_one_1(small):
    model = lfg(mask=0.5, shown_weight=0.25)
    calls = record(model, "gradients")
    model.fit(small.ratings, small.E)
    for (inputs, row, item, _, weight), _ in calls:
        shown = inputs[row, small.E.shape[1] + 40 + item] > 0
        assert 0 < shown.mean() < 1 and weight.tolist() == np.where(shown, 0.25, 1).tolist()


def test_lfg_trains_all_its_parameters_and_penalises_weights_and_M(small, monkeypatch):
    steps = record(Adam, "step", monkeypatch.setattr)
    model = lfg(l2=0.1, l2_M=0.3, epochs=1).fit(small.ratings, small.E)
    adam, trained = steps[0][0][0], [*model.network.params, model.M, model.bi]
    assert len(adam.params) == len(trained) and all(p is q for p, q in zip(adam.params, trained))
    weights = [layer.W for layer in model.network.layers if isinstance(layer, Linear)]
    assert adam.l2 == [0.1 * any(p is W for W in weights) for p in trained[:-2]] + [0.3, 0]


def test_rates_decay_to_zero_step_by_step(small, monkeypatch):
    steps = record(Adam, "step", monkeypatch.setattr)
    lfg(rate=0.01, epochs=2, batch=20).fit(small.ratings, small.E)         # 3 steps an epoch
    decay = [(1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]
    assert [rate for (_, _, rate), _ in steps] == pytest.approx([0.01 * d for d in decay])
    steps.clear()
    BiasSVD(n_factors=2, rate=0.02, epochs=2).fit(random_ratings(300, 20, share=0.3)[0])
    rates = [rate for (_, _, rate), _ in steps]             # of a block's users, then of the items
    assert rates[1::2] == pytest.approx([0.02 * d for d in decay])
    assert rates[0::2] == pytest.approx([20 * rate for rate in rates[1::2]])


def test_lfg_tells_the_mean_squared_error_of_each_epoch(small):
    for batch in (60, 20):
        told, model = [], lfg(epochs=2, batch=batch, mask=0, dropout=0, rate=0)              # stays where it starts
        calls = record(model, "encode")
        model.fit(small.ratings, small.E, progress=lambda *epoch: told.append(epoch))
        squared = 0
        for (row, item, value, _), x in calls:              # BatchNorm's mean and variance are a batch's
            G = model.network.forward(x, training=True)[0]
            predicted = model.mu + G[row, 3] + model.bi[item] + (G[row, :3] * model.M[:, item].T).sum(1)
            squared += ((predicted - value) ** 2).sum()
        assert [epoch for epoch, _ in told] == [0, 1] and len(calls) == 2 * 60 / batch
        assert sum(mse for _, mse in told) == pytest.approx(squared / len(small.ratings), rel=1e-4)


@pytest.mark.parametrize("test", ["basic", "realtime"])
def test_lfg_beats_item_means(test):
    d = synthetic(300, 120, 9000, seed=0)
    train, profile, target = split(d.ratings, test, 1, seed=0)
    model = LFG(n_factors=10, hidden=(64,), l2=0.005, l2_M=0.2, mask=0.2, dropout=0.3, svd_rows=10, epochs=20,
                rate=0.003, batch=64, seed=0).fit(train, d.E)
    means = np.bincount(train.items, train.values, 120) / np.maximum(train.T.counts, 1)
    means[train.T.counts == 0] = train.values.mean()
    rmse = [np.sqrt(np.mean((p - target.values) ** 2))
            for p in (model.predict(target.users, target.items, profile, d.E), means[target.items])]
    assert rmse[0] < 0.95 * rmse[1]


def test_lfg_answers_empty_and_full_profiles_with_more_factors_than_items():
    R = random_ratings(30, 6, share=0.4)[0]
    R = Ratings(np.r_[R.users[R.users > 1], np.ones(6, int)], np.r_[R.items[R.users > 1], np.arange(6)],
                np.r_[R.values[R.users > 1], np.arange(6)], (30, 6))       # user 0 rates nothing, user 1 all
    E = np.zeros((30, 0), np.float32)                       # and nobody has a profile
    model = lfg(n_factors=20, svd_rows=20).fit(R, E)
    users, items = np.repeat(np.arange(30), 6), np.tile(np.arange(6), 30)
    predicted = model.predict(users, items, R, E).reshape(30, 6)
    assert np.isfinite(predicted).all() and predicted.std(1).min() > 0
    assert np.ptp(predicted, axis=0).min() > 0              # users differ


def test_lfg_generates_a_user_on_its_own(small):
    model = lfg().fit(small.ratings, small.E)
    before = arrays(model)
    factors, bias = model.generate(small.ratings, small.E)
    assert factors.shape == (60, 3) and bias.shape == (60,) and np.ptp(factors, axis=0).min() > 0.01
    for u in (0, 7, 59):
        _, items, values = small.ratings.rows(np.array([u]))
        alone = model.generate(Ratings(np.zeros(len(items)), items, values, (1, 40)), small.E[u:u + 1])
        assert np.abs(alone[0] - factors[u]).max() < 1e-5 and abs(alone[1] - bias[u]) < 1e-5
    assert differing(before, arrays(model)) == []


def test_each_of_many_users_gets_what_it_gets_alone():
    R, E = random_ratings(600, 20, share=0.3)[0], np.random.default_rng(1).normal(size=(600, 2))
    model, implicit = lfg(epochs=2).fit(R, E), SVDpp(n_factors=3, epochs=2).fit(R)
    (factors, bias), z = model.generate(R, E), implicit.z(R)
    for u in (0, 299, 300, 599):                            # they go by blocks of at most 512
        _, items, values = R.rows(np.array([u]))
        own = Ratings(np.zeros(len(items)), items, values, (1, 20))
        alone = model.generate(own, E[u:u + 1])
        assert np.abs(alone[0] - factors[u]).max() < 1e-5 and abs(alone[1] - bias[u]) < 1e-5
        assert np.abs(implicit.z(own) - z[u]).max() < 1e-6


# Serving: lfg.Recommender


LENGTHS = (0, 1, 2, 3, 4, 7, 20, 40)                        # of profiles; 4 ratings for as many factors and a bias


@pytest.fixture(scope="module")
def known(small):
    """What models are served from: nobody rates item 7, user 3 rates nothing."""
    return small.ratings.where((small.ratings.items != 7) & (small.ratings.users != 3))


@pytest.fixture(scope="module")
def networks(small, known):
    """The trained LFGs: of users with one hidden layer and with two, and of items from two seeds."""
    users = [lfg(hidden=hidden, epochs=20).fit(known, small.E) for hidden in ((8,), (8, 6))]
    return (*users, [lfg(epochs=20, seed=seed).fit(known.T, small.F) for seed in (0, 1)])


@pytest.fixture(scope="module")
def served(small, known, networks):
    """served(kind, unit, deep) -> a Recommender of the networks, for ratings that are unit times the known ones."""
    sides = [item_side(model, known, small.F, 50, 3) for model in networks[2]]

    def build(kind="dual", unit=1, deep=False):
        weights = {"user": (1, 1), "item": (0, 0), "dual": (0.2, 0.6)}[kind]
        return Recommender(assemble(
            facts(known.with_values(unit * known.values), small.E, unit), None if kind == "item" else networks[deep],
            () if kind == "user" else sides, (50, 3), weights, item_ids=small.item_ids, titles=small.titles,
            E_names=small.E_names))
    return build


def new_users(lengths=LENGTHS, unit=1):
    """Items and ratings, 1 to 5 times unit, of made-up users by the lengths of their profiles; and their sides."""
    rng = np.random.default_rng(3)
    items = [rng.permutation(40)[:n] for n in lengths]
    sides = (rng.random((len(lengths), 30)) < 0.2).astype(np.float32)
    return items, [unit * rng.integers(1, 6, n).astype(np.float32) for n in lengths], sides


def as_ratings(items, ratings, unit=1):
    """The profiles of new_users as a matrix in the unit of training, and all of its cells as what is asked for."""
    users = np.repeat(np.arange(len(items)), [len(i) for i in items])
    every = np.indices((len(items), 40)).reshape(2, -1)
    return (Ratings(users, np.concatenate(items), np.concatenate(ratings) / unit, (len(items), 40)),
            Ratings(*every, np.zeros(every.shape[1]), (len(items), 40)))


@pytest.mark.parametrize("unit", [1, 2.25])
@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_a_saved_model_predicts_the_same_bits(served, tmp_path, kind, unit):
    model, users = served(kind, unit), new_users(unit=unit)
    model.save(tmp_path / "model")
    loaded = Recommender.load(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"] and differing(model.arrays, loaded.arrays) == []
    assert np.array_equal(model.predict(*users), loaded.predict(*users))
    assert (loaded.low, loaded.high, loaded.unit) == (unit, 5 * unit, unit) and loaded.E_names == model.E_names


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_half_is_smaller_and_close_and_leaves_the_model_as_it_is(served, tmp_path, kind):
    model, users = served(kind), new_users()
    predicted, before = model.predict(*users), arrays(model.arrays)
    for name in ("whole", "half"):
        model.save(tmp_path / name, half=name == "half")
    assert differing(before, arrays(model.arrays)) == [] and np.array_equal(model.predict(*users), predicted)
    loaded = Recommender.load(tmp_path / "half")
    assert 0 < np.abs(loaded.predict(*users) - predicted).max() < 0.01
    assert {a.dtype.kind + str(a.itemsize) for a in loaded.arrays.values() if a.dtype.kind == "f"} == {"f4"}
    assert (tmp_path / "half").stat().st_size < (tmp_path / "whole").stat().st_size
    assert all(np.array_equal(loaded.arrays[name], a) for name, a in model.arrays.items() if a.ndim < 2)


def test_an_lfg_keeps_its_user_side(networks, tmp_path):
    (items, ratings, sides), model = new_users(), networks[0]
    profile, target = as_ratings(items, ratings)
    expected = model.predict(target.users, target.items, profile, sides).reshape(len(items), 40)
    model.save(tmp_path / "whole")
    model.save(tmp_path / "half", half=True)
    loaded, half = LFG.load(tmp_path / "whole"), LFG.load(tmp_path / "half")
    assert loaded.predict(items, ratings, sides) == pytest.approx(expected, abs=1e-5)
    assert 0 < np.abs(half.predict(items, ratings, sides) - expected).max() < 0.01
    assert loaded.item_ids.tolist() == loaded.titles.tolist() == [str(n) for n in range(40)]


@pytest.mark.parametrize("settings", [dict(raw=True), dict(hidden=())])
def test_an_lfg_for_experiments_is_not_kept(small, tmp_path, settings):
    with pytest.raises(DataError, match="raw=True or no hidden layer is for experiments"):
        lfg(**settings, epochs=1).fit(small.ratings, small.E).save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("unit", [1, 2.25])
@pytest.mark.parametrize("deep", [False, True], ids=["one hidden layer", "two"])
def test_the_user_side_predicts_what_the_trained_network_does(served, networks, deep, unit):
    items, ratings, sides = new_users(unit=unit)
    profile, target = as_ratings(items, ratings, unit)
    expected = unit * networks[deep].predict(target.users, target.items, profile, sides).reshape(len(items), 40)
    got = served("user", unit, deep).predict(items, ratings, sides)
    assert got.dtype == np.float32 and got == pytest.approx(expected, abs=1e-5) and np.ptp(got, axis=0).min() > 0.01


@pytest.mark.parametrize("kind,unit", [("item", 1), ("item", 2.25), ("dual", 1), ("dual", 2.25)])
def test_the_item_side_and_both_predict_what_the_experiments_do(served, networks, known, small, kind, unit):
    items, ratings, sides = new_users(unit=unit)
    profile, target = as_ratings(items, ratings, unit)
    by_items = [experiments.folding(*model.generate(known.T, small.F), model.mu, known, to_mean=True, l2=50, l2_bias=3)
                for model in networks[2]]
    expected = np.mean([predict(profile, target) for predict in by_items], axis=0)
    if kind == "dual":
        expected = experiments.joined(lambda p, t: networks[0].predict(t.users, t.items, p, sides), by_items,
                                      profile, target, user_weight=0.2, empty_weight=0.6)
    got = served(kind, unit).predict(items, ratings, sides)
    assert got.dtype == np.float32 and got == pytest.approx(unit * expected.reshape(len(items), 40), abs=1e-5)
    assert np.ptp(got, axis=0).min() > 0.01                 # users differ


def test_the_joining_weight_worked_by_hand():
    # 0.6 at none; 0.2 + 0.4 * 5 / 10; 0.2 + 0.4 * 5 / 25; 0.2 in the end
    assert [joining_weight(n, 0.2, 0.6) for n in (0, 5, 20, 1e9)] == pytest.approx([0.6, 0.4, 0.28, 0.2])


def test_facts_worked_by_hand():
    R = Ratings([0, 0, 2], [0, 3, 3], [1, 2, 4], (3, 4))    # nobody rates items 1 and 2, user 1 rates nothing
    got = facts(R, np.array([[1, 0], [9, 9], [0, 0]]), unit=2)
    assert got["rated"].tolist() == [True, False, False, True] and got["mu"] == pytest.approx(7 / 6)
    assert list(got["scale"]) == [1, 4, 2] and got["E_mean"].tolist() == [0.5, 0]


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_an_answer_does_not_depend_on_the_others_in_the_batch(served, kind):
    model, (items, ratings, sides) = served(kind), new_users()
    alone = [model.predict(*user) for user in zip(items, ratings, sides)]
    assert same(model.predict(items, ratings, sides), alone)
    for part in (slice(3, 0, -1), slice(5, 6)):             # of three users and of one
        assert same(model.predict(items[part], ratings[part], sides[part]), alone[part])
    without = [model.predict(*user) for user in zip(items, ratings)]
    assert same(model.predict(items, ratings), without) and same(model.predict([[], []], [[], []]), [without[0]] * 2)


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_without_a_side_the_mean_of_the_training_users_stands_in(served, small, kind):
    model, (items, ratings, sides) = served(kind), new_users()
    mean = np.delete(small.E, 3, axis=0).mean(0)            # all but the user who rates nothing
    for user in zip(items, ratings):
        assert model.predict(*user) == pytest.approx(model.predict(*user, mean), abs=1e-6)
    differs = np.abs(model.predict(items, ratings) - model.predict(items, ratings, sides)).max(1) > 1e-3
    assert differs.tolist() == [kind != "item"] * len(items)


@pytest.mark.parametrize("n", [1, 5, 39, 1000])
@pytest.mark.parametrize("length", LENGTHS)
def test_recommend_gives_the_best_that_the_user_has_not_rated(served, length, n):
    model, ((items,), (ratings,), (side,)) = served(), new_users([length])
    predicted = model.predict(items, ratings, side)
    left = sorted(set(range(40)) - {7, *items.tolist()}, key=lambda place: -predicted[place])[:n]
    places, rated = model.recommend(items, ratings, side, n)
    assert places.tolist() == left and rated.tolist() == predicted[left].tolist()
    assert len(left) == min(n, 39 - len(set(items) - {7}))


def test_recommended_ratings_lie_within_the_scale(served):
    model = served("user", unit=2)
    for shift, end in ((-9, 2), (9, 10)):
        shifted = Recommender({**model.arrays, "bi": model.arrays["bi"] + np.float32(shift)})
        places, rated = shifted.recommend([1], [4], n=40)
        assert rated.tolist() == [end] * 38 and places.tolist() == model.recommend([1], [4], n=40)[0].tolist()


def test_recommend_answers_a_batch_as_one_by_one(served):
    model, (items, ratings, sides) = served(), new_users()
    for more in ([sides], []):
        batch = model.recommend(items, ratings, *more, n=4)
        alone = [model.recommend(*user, n=4) for user in zip(items, ratings, *more)]
        assert len(batch) == len(LENGTHS) and all(same(a, b) for a, b in zip(batch, alone))
    assert len(model.recommend([], [])[0]) == 10            # one user who has rated nothing


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_the_order_of_ratings_does_not_matter(served, kind):
    model, (items, ratings, sides) = served(kind), new_users()
    turned = model.predict([i[::-1] for i in items], [r[::-1] for r in ratings], sides)
    assert turned == pytest.approx(model.predict(items, ratings, sides), abs=1e-5)


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_one_more_rating_is_one_more_call_and_nothing_is_kept(served, kind):
    model, fresh, ((items,), (ratings,), (side,)) = served(kind), served(kind), new_users([7])
    before, first = arrays(model), model.predict(items[:6], ratings[:6], side)
    more = model.predict(items, ratings, side)
    assert np.array_equal(more, fresh.predict(items, ratings, side)) and np.abs(more - first).max() > 1e-3
    model.recommend(items, ratings, side)
    assert np.array_equal(model.predict(items[:6], ratings[:6], side), first)
    assert differing(before, arrays(model)) == []


def test_arguments_are_left_as_they_are(served):
    model, (items, ratings, sides) = served(unit=2), new_users(unit=2)
    copies = [[a.copy() for a in given] for given in (items, ratings, sides)]
    for call in (model.predict, model.recommend):
        call(items, ratings, sides)
        call(items[4], ratings[4], sides[4])
    assert all(same(given, copy) for given, copy in zip((items, ratings, sides), copies))


def test_eight_threads_share_a_model(served):
    model, rng = served(), np.random.default_rng(0)
    users = list(zip(*new_users(rng.integers(0, 41, 200))))
    serial = [(model.predict(*user), *model.recommend(*user)) for user in users]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda user: (model.predict(*user), *model.recommend(*user)), users))
    assert all(same(a, b) for a, b in zip(serial, parallel))


@pytest.mark.parametrize("low,high", [(1, 100), (0.1, 0.9), (-3, 7), (0, 0.3), (5, 5)])
def test_the_ends_of_a_scale_are_ratings(served, low, high):
    R = Ratings([0, 1], [0, 1], [low, high], (2, 40))
    scale = facts(R, np.zeros((2, 1)), np.float32((high - low) / 4 or 1))["scale"]
    model = Recommender({**served().arrays, "scale": np.array(scale, np.float32)})
    places, predicted = model.recommend([1, 2], [low, high])
    assert np.float32(low) <= predicted.min() and predicted.max() <= np.float32(high) and len(places) == 10
    assert [data._rating(model, str(end), "x") for end in (low, high)] == [np.float32(low), np.float32(high)]


def test_sides_without_a_network_need_no_weights(served, networks, known, small):
    sides = [item_side(model, known, small.F, 50, 3) for model in networks[2]]
    model = Recommender(assemble(facts(known, small.E), sides=sides, ridge=(50, 3)))
    assert np.array_equal(model.predict([1], [2]), served("item").predict([1], [2])) and model.weights == [0, 0]


@pytest.mark.parametrize("times,ridge", [(1e30, 1), (1e5, 1e-9)], ids=["overflow", "singular"])
def test_weights_out_of_all_measure_are_told_without_a_warning(served, times, ridge):
    model = served("item")
    model.sides = [(np.full_like(q1, times), mean_user) for q1, mean_user in model.sides]
    model.ridge = (ridge, ridge)
    with pytest.raises(DataError, match="out of all measure"):
        model.recommend([1, 2, 3], [4, 5, 1])


@pytest.mark.parametrize("items,ratings,side,message", [
    ([40], [3], None, "items are places from 0 to 39"), ([3, -1], [3, 3], None, "items are places from 0 to 39"),
    ([1, 2], [3], None, r"shape \(2,\), ratings of shape \(1,\)"), ([], [3], None, r"shape \(0,\)"),
    ([[1], [2]], [[3], [3, 3]], None, r"shape \(1,\), ratings of shape \(2,\)"),
    ([1], [0.9], None, "ratings are from 1 to 5"), ([1, 2], [3, 5.1], None, "ratings are from 1 to 5"),
    ([1], [1e39], None, "ratings are from 1 to 5"), ([1], [float("nan")], None, "ratings are from 1 to 5"),
    ([1], [float("inf")], None, "ratings are from 1 to 5"),
    ([1], [3], [0, 1], r"side of shape \(2,\)"), ([], [], np.zeros((1, 30)), r"side of shape \(1, 30\)"),
    ([[1], [2]], [[3], [3]], np.zeros((2, 3)), r"side of shape \(3,\)"),
    ([1.5], [3], None, "items are places from 0 to 39"), ([3, 3], [3, 4], None, "an item is rated twice"),
    ([[1], [2]], [[3]], None, "items of 2 users, ratings of 1, sides of 2"),
    ([[1]], [[3], [3]], None, "items of 1 users, ratings of 2, sides of 1"),
    ([[1]], [[3]], np.zeros((2, 30)), "items of 1 users, ratings of 1, sides of 2")])
def test_arguments_that_do_not_fit_are_refused(served, items, ratings, side, message):
    for call in (served().predict, served().recommend):
        with pytest.raises(DataError, match=message):
            call(items, ratings, side)


# Files of models


NAMES = {"version", "item_ids", "titles", "E_names", "rated", "mu", "scale", "E_mean", "ridge", "weights", "expected",
         "M", "bi", "gain", "shift", "mean", "var", "W0", "b0", "W1", "b1", "q0", "q_bias0", "centre0", "q1",
         "q_bias1", "centre1"}                              # of a dual model of two seeds
TEXT = {"item_ids", "titles", "E_names"}


def refused(path):
    """What Recommender.load says about a file: one line that begins with its name, with no warning."""
    with warnings.catch_warnings(), pytest.raises(DataError) as caught:
        warnings.simplefilter("error")
        Recommender.load(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message[len(f"{path}: "):]


def file_of(folder, changed, but=()):
    """An .npz file of arrays without pickles, but for some names."""
    np.savez(folder / "x.npz", **{name: a for name, a in changed.items() if name not in but})
    return folder / "x.npz"


def test_a_dual_model_is_these_arrays(served, tmp_path):
    model = served()
    assert set(model.arrays) == NAMES
    assert np.array_equal(Recommender.load(file_of(tmp_path, model.arrays)).predict([1], [2]), model.predict([1], [2]))


@pytest.mark.parametrize("kind", ["nothing", "a folder", "text", "empty", "npy", "zip of text"])
def test_what_is_no_model_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "a folder":
        path.mkdir()
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
    elif kind == "zip of text":
        write_zip(path, "model", {"version": "1"})
    elif kind != "nothing":
        path.write_text("user,item,rating\n" * (kind == "text"))
    said = "No such file or directory" if kind == "nothing" else "not a model file"
    assert refused(path).startswith(said)


@pytest.mark.parametrize("version", [None, 0, 2, 1.5, "1", [1]])
def test_another_version_is_refused(served, tmp_path, version):
    model = {**served().arrays, "version": np.array(version)}
    assert "not a model file of format 1" in refused(file_of(tmp_path, model, ["version"] * (version is None)))


@pytest.mark.parametrize("name", sorted(NAMES - {"version", "W0", "q0", "q1"}))
def test_a_missing_array_is_refused(served, tmp_path, name):
    assert "is missing, not finite or not as the rest" in refused(file_of(tmp_path, served().arrays, [name]))


@pytest.mark.parametrize("name", ["W0", "q0", "q1", "q_bias1"])
def test_a_part_without_its_rest_is_refused(served, tmp_path, name):
    assert "not as the rest" in refused(file_of(tmp_path, served().arrays, [name]))


@pytest.mark.parametrize("name", ["extra", "../M", "M.npy", "W7"])
def test_an_array_too_many_is_refused(served, tmp_path, name):
    assert "not as the rest" in refused(file_of(tmp_path, {**served().arrays, name: np.ones(3, np.float32)}))


@pytest.mark.parametrize("kind", ["text", "twice", "compressed", "bomb"])
def test_an_archive_that_save_does_not_write_is_refused(served, tmp_path, kind):
    path = file_of(tmp_path, served().arrays)
    if kind == "compressed":
        np.savez_compressed(path, **served().arrays)
    else:
        name, text = {"text": ("notes", "x"), "twice": ("M.npy", "x"), "bomb": ("W9.npy", "0" * 10 ** 7)}[kind]
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # of the name that is there twice
            archive.writestr(name, text)
    assert "not a model file, or cut short" in refused(path)


def test_a_cut_model_is_refused_and_closed(served, tmp_path):
    whole = file_of(tmp_path, served().arrays).read_bytes()
    for end in range(0, len(whole), len(whole) // 50):
        (tmp_path / "cut").write_bytes(whole[:end])
        assert "not a model file" in refused(tmp_path / "cut")             # ResourceWarnings are errors there


def test_a_network_without_its_layers_is_refused(small, tmp_path):
    network = lfg(hidden=(4,), epochs=1).fit(small.ratings, small.E)       # as wide inside as its answer
    network.save(tmp_path / "model")
    whole = Recommender.load(tmp_path / "model").arrays
    for missing in (["W1", "b1"], network.arrays()):
        assert "is missing, not finite or not as the rest" in refused(file_of(tmp_path, whole, missing))


def test_a_batch_of_one_user_is_a_batch(served):
    assert np.array_equal(served().predict([[1, 2]], [[4, 5]]), [served().predict([1, 2], [4, 5])])


def test_a_profile_read_from_options_leaves_the_model_as_it_was(served):
    model = served()
    before = model.E_mean.copy()
    data.read_side(model, {name.partition("=")[0]: name.partition("=")[2] for name in model.E_names
                           if not name.startswith("age")})
    assert np.array_equal(model.E_mean, before)


@pytest.mark.parametrize("name", sorted(NAMES - {"version"}))
def test_a_misshapen_array_is_refused(served, tmp_path, name):
    a = served().arrays[name]
    for other in [a[None], a[..., None]] + ([a[:-1], a[..., :-1], np.concatenate([a, a])] if a.ndim else []):
        assert "not finite or not as the rest" in refused(file_of(tmp_path, {**served().arrays, name: other}))


@pytest.mark.parametrize("name", sorted(NAMES - {"version", "rated"} - TEXT))
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e11])
def test_an_array_that_is_not_finite_is_refused(served, tmp_path, name, value):
    a = served().arrays[name].copy()
    a[tuple(np.array(a.shape) - 1)] = value
    assert refused(file_of(tmp_path, {**served().arrays, name: a})).startswith(f"{name} is missing, not finite or not")


@pytest.mark.parametrize("name", sorted(NAMES - {"version"}))
def test_an_array_of_another_type_is_refused(served, tmp_path, name):
    a = served().arrays[name]
    other = np.zeros(a.shape, int if name in TEXT | {"rated"} else "U1")
    assert refused(file_of(tmp_path, {**served().arrays, name: other})).startswith(f"{name} is missing, not finite")


@pytest.mark.parametrize("name", ["titles", "M", "version"])
def test_a_pickle_is_not_read(served, tmp_path, name):
    a = served().arrays[name]
    assert "not a model file" in refused(file_of(tmp_path, {**served().arrays, name: a.astype(object)}))


def test_a_scale_from_high_to_low_is_refused(served, tmp_path):
    wrong = np.array([5, 1, 1], np.float32)
    assert refused(file_of(tmp_path, {**served().arrays, "scale": wrong})).startswith("scale is")


@pytest.mark.parametrize("name,at", [("ridge", 0), ("ridge", 1), ("scale", 2), ("var", 3)])
def test_what_has_to_be_positive_is(served, tmp_path, name, at):
    for value in (-1, 0):
        a = served().arrays[name].copy()
        a[at] = value
        if name != "var" or value:                          # which may be 0: BatchNorm adds eps
            assert refused(file_of(tmp_path, {**served().arrays, name: a})).startswith(f"{name} is")


def test_a_flipped_byte_is_refused_or_changes_nothing(served, tmp_path):
    model, path = served(), tmp_path / "x"
    model.save(path)
    whole, refusals = path.read_bytes(), 0
    arrays_end = whole.index(b"PK\1\2")                     # where the zip's table of contents begins
    for at in range(200, arrays_end, arrays_end // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xff]) + whole[at + 1:])
        try:
            assert differing(model.arrays, Recommender.load(path).arrays) == []              # say, a member's date
        except DataError:
            refusals += refused(path) != ""
    assert refusals > 30


@pytest.mark.parametrize("content", ["é\n", lambda file: file.write("é\n".encode())], ids=["text", "function"])
def test_write_whole_takes_text_or_a_function(tmp_path, content):
    for _ in range(2):                                      # a new file, and over an old one
        write_whole(tmp_path / "x", content)
        assert (tmp_path / "x").read_bytes() == b"\xc3\xa9\n" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error,raised,message", [
    (OSError(28, "No space left on device"), DataError, "x: No space left on device; make room or name another file$"),
    (DataError("line 3"), DataError, "^line 3$"), (KeyboardInterrupt("stop"), KeyboardInterrupt, "^stop$")])
def test_write_whole_leaves_the_old_file_when_writing_fails(tmp_path, error, raised, message):
    def half(file):
        file.write(b"half")
        raise error

    write_whole(tmp_path / "x", "old")
    with pytest.raises(raised, match=message):
        write_whole(tmp_path / "x", half)
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


# Experiments


COLUMNS = {test: [c for added in models.values() for c in added] for test, models in experiments.COLUMNS.items()}
CASES = [(test, column) for test in COLUMNS for column in COLUMNS[test]]
OF_NEW = [(test, column) for test, column in CASES if test != "basic"]
CUT = {"basic": "basic", "realtime": "realtime", "newitem": "realtime", "coldstart": "realtime"}      # as split has it
PLACEHOLDERS = ("SVD", "BiasSVD", "μ + bi", "μ + bu")
COUNTS = experiments.COUNTS
TINY = dict(n_factors=4, hidden=(8,), svd_rows=2, batch=16, epochs=2)      # of which each model takes what it knows
BAR = experiments.tqdm(disable=True)


def tiny(settings):
    """Settings of all models of a test, quick to train; the penalties and what follows training are as they are."""
    quick = {name: dict(settings[name]) for name in settings}
    for name in experiments.CLASSES.keys() & quick.keys():
        known = inspect.signature(experiments.CLASSES[name]).parameters
        quick[name].update({k: v for k, v in TINY.items() if k in known})
    quick["LFG-dual"]["seeds"] = 2
    if "SVD++ fold-in" in quick:
        quick["SVD++ fold-in"]["l2"] += 1                   # else what BiasSVD's is
    return quick


def arrays(thing, path="model"):
    """{path: array} of all that can be reached from a trained model: parameters, running statistics, settings."""
    if isinstance(thing, (np.ndarray, np.number, int, float)):
        return {path: np.array(thing)}
    if isinstance(thing, (list, tuple)):
        thing = dict(enumerate(thing))
    elif not isinstance(thing, dict):
        thing = {} if callable(thing) else getattr(thing, "__dict__", {})
    return {k: v for key, value in thing.items() for k, v in arrays(value, f"{path}.{key}").items()}


def differing(a, b):
    """Paths at which two results of arrays have not the same bits."""
    assert a.keys() == b.keys() and len(a) > 5
    return [path for path in a if a[path].tobytes() != b[path].tobytes()]


@pytest.fixture
def cli(small, monkeypatch, capsys):
    """cli(arguments...) -> exit code, stdout, stderr of a quick command line; cli.data is what it loads by name."""
    def run(*arguments):
        try:
            code = experiments.main([str(a) for a in arguments])
        except (SystemExit, KeyboardInterrupt) as stop:
            code = getattr(stop, "code", "traceback")
        return (code, *capsys.readouterr())

    def load_small(name, *more):
        return replace(run.data, name=name) if name in run.names else load(name, *more)

    run.data, run.names = small, ["synthetic", "ml-100k", "ml-1m"]
    monkeypatch.setattr(experiments, "load", load_small)
    monkeypatch.setattr(experiments, "SETTINGS", {key: tiny(s) for key, s in experiments.SETTINGS.items()})
    monkeypatch.setattr(experiments, "COUNTS", (0, 2, 8))  # its users have 15 ratings
    return run


def rows_of(out):
    """The cells of each line of the tables on stdout."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in out.splitlines() if line.startswith("|")]


def parts_of(d, test, fold=2, seed=7):
    """Training part, profiles and target of a fold; of new items, with items for users."""
    return split(d.ratings.T if test == "newitem" else d.ratings, CUT[test], fold, seed)


def with_ratings(d, chosen, values):
    """The data set with other values at the places of some ratings, which may have items for users."""
    if chosen.shape == d.ratings.shape[::-1]:
        values = chosen.with_values(np.broadcast_to(values, len(chosen))).T.values
        chosen = chosen.T
    at = np.isin(d.ratings.users * 40 + d.ratings.items, chosen.users * 40 + chosen.items)
    assert d.ratings.shape[1] == 40 and at.sum() == len(chosen) > 0
    new = d.ratings.values.copy()
    new[at] = values
    return replace(d, ratings=d.ratings.with_values(new))


def record_predictions(setattr):
    """As record: each prediction of a column adds ((column, settings, view, ratings, profile, target), result)."""
    predictor, calls, within = experiments.predictor, [], []

    def recording(column, models, *more):
        within.append(column)
        predict = predictor(column, models, *more)
        within.pop()

        def predicting(profile, target):
            calls.append(((column, *more, profile, target), predict(profile, target)))
            return calls[-1][1]
        return predict if within else predicting            # not what LFG-dual is made of

    setattr(experiments, "predictor", recording)
    return calls


def run_recorded(monkeypatch, test, column, d, tune=False, fold=2):
    """RMSEs, arrays of every trained model and predictions of one column's table, of seed 7; coldstart has several."""
    options = experiments.parse(["--folds", str(fold), "--seed", "7", "--quiet"])
    with monkeypatch.context() as patch:
        trained, predicted = record(experiments, "train", patch.setattr), record_predictions(patch.setattr)
        if tune:
            rmse = [row["rmse"] for row in experiments.tune(d, test, column, options)["grid"]]
        elif test == "coldstart":
            rmse = experiments.cold_start(d, [column], options)["average"][column]
        else:
            rmse = [experiments.cross_validate(d, test, [column], options)["average"][column]]
    return rmse, [arrays(model) for _, (model, _) in trained], [p for _, p in predicted]


def same(a, b):
    return len(a) == len(b) > 0 and all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("test,column,tune", [(*case, False) for case in CASES] + [
    (test, column, True) for test, column in CASES if column[0] != "μ"])   # which has nothing to tune
def test_no_test_rating_leaks_into_training_or_prediction(cli, monkeypatch, small, test, column, tune):
    outer = parts_of(small, test, 1)
    scored = split(outer.train, CUT[test], 1, 7) if tune else outer
    rmse, models, predicted = run_recorded(monkeypatch, test, column, small, tune, 1)
    assert {m["model.seed"].item() for m in models} == ({7, 8} if column == "LFG-dual" else {7})
    for part in {id(p): p for p in (scored.target, outer.target)}.values():
        again = run_recorded(monkeypatch, test, column, with_ratings(small, part, 3), tune, 1)
        assert len(models) == len(again[1]) and not any(differing(a, b) for a, b in zip(models, again[1]))
        assert same(predicted, again[2])
        if part is scored.target:                           # and yet the score sees them
            scale = scored.train.values                     # the one thing done to a prediction: clip to it
            clipped = [p.clip(scale.min(), scale.max()) for p in predicted]
            each = [np.sqrt(np.mean((p - 3) ** 2)) for p in clipped]       # tune averages over the counts of coldstart
            assert again[0] == pytest.approx(np.reshape(each, (len(rmse), -1)).mean(1).tolist())
            assert np.abs(np.subtract(rmse, again[0])).min() > 0.01
        else:
            assert again[0] == rmse                         # validation does not look at test ratings


def trained(name, d, ratings, seed=7, test="basic"):
    view = experiments.view_of(d, test)
    return experiments.train(name, experiments.SETTINGS["ml-100k", test][name], ratings, view, seed, BAR)[0]


@pytest.mark.parametrize("name", experiments.CLASSES)
def test_same_seed_same_bits(cli, small, name):
    a, b, c = (arrays(trained(name, small, small.ratings, seed)) for seed in (1, 1, 2))
    assert differing(a, b) == [] and len(set(differing(a, c)) - {"model.seed"}) > 1


def shown_and_scored(test, profile, target):
    """The profiles shown and the target: in coldstart, of the users with ratings enough for the longest profile."""
    if test != "coldstart":
        return [profile], target
    steady = profile.counts >= experiments.COUNTS[-1]
    profile, target = (R.where(steady[R.users]) for R in (profile, target))
    return [first_ratings(profile, n, 7) for n in experiments.COUNTS], target


@pytest.mark.parametrize("test,column", OF_NEW)
def test_what_is_new_is_predicted_from_its_own_profile_alone(cli, small, monkeypatch, test, column):
    _, profile, target = parts_of(small, test)
    profiles, target = shown_and_scored(test, profile, target)
    changed, others = profile.where(profile.users == target.users[0]), target.users != target.users[0]
    _, _, before = run_recorded(monkeypatch, test, column, small)
    _, _, after = run_recorded(monkeypatch, test, column, with_ratings(small, changed, changed.values % 5 + 1))
    assert len(before) == len(after) == len(profiles)
    for shown, a, b in zip(profiles, before, after):
        assert np.abs(a - b)[others].max() < 1e-6
        known = shown.counts[target.users[0]] > 0 and column not in PLACEHOLDERS
        assert np.abs(a - b)[~others].min() > 1e-4 if known else np.array_equal(a, b)


@pytest.mark.parametrize("test,column", [
    ("realtime", "BiasSVD fold-in"), ("realtime", "SVD++ fold-in"), ("realtime", "LFG-item"), ("basic", "LFG-item"),
    ("newitem", "BiasSVD fold-in"), ("newitem", "LFG"), ("coldstart", "BiasSVD fold-in"), ("coldstart", "LFG-item")])
def test_columns_that_fold_in_by_hand(cli, small, monkeypatch, test, column):
    train, profile, target = parts_of(small, test)
    model, side = trained(experiments.model_of(column), small, train, test=test), "E" if test == "newitem" else "F"
    q, bi = model.generate(train.T, getattr(small, side)) if column.startswith("LFG") else (model.q, model.bi)
    l2 = experiments.SETTINGS["ml-100k", test][f"{column} fold-in" if column.startswith("LFG") else column]
    ridge, zero = np.diag([l2["l2"]] * 4 + [l2["l2_bias"]]), np.zeros(5)

    def solved(R, u, centre):
        items, values = R.rows(np.array([u]))[1:]
        if column == "SVD++ fold-in":
            centre = np.append(model.y[items].sum(0) / len(items) ** 0.5, 0)
        A = np.c_[q, np.ones(len(q))][items]
        return np.linalg.solve(A.T @ A + ridge, A.T @ (values - model.mu - bi[items]) + ridge @ centre)

    centre = np.mean([solved(train, u, zero) for u in np.unique(train.users)], axis=0) if "to_mean" in l2 else zero
    profiles, target = shown_and_scored(test, profile, target)
    u, at = target.users[0], target.users == target.users[0]
    _, _, predicted = run_recorded(monkeypatch, test, column, small)
    assert len(predicted) == len(profiles) and (np.abs(centre).max() > 0.01) == (test in ("newitem", "coldstart"))
    for shown, prediction in zip(profiles, predicted):
        x = solved(shown, u, centre)
        assert prediction[at] == pytest.approx((model.mu + bi + x[4] + q @ x[:4])[target.items[at]], abs=1e-4)


@pytest.mark.parametrize("test,column", OF_NEW)
def test_nothing_of_what_is_new_is_in_training(cli, small, monkeypatch, test, column):
    _, profile, target = parts_of(small, test)
    rows, side = (small.ratings.T, "F") if test == "newitem" else (small.ratings, "E")
    new = np.unique(target.users)
    theirs, told = rows.where(np.isin(rows.users, new)), getattr(small, side).copy()
    told[new] = 1 - told[new]
    changed = replace(with_ratings(small, theirs, 6 - theirs.values), **{side: told})      # all that is known of them
    models, again = (run_recorded(monkeypatch, test, column, d)[1] for d in (small, changed))
    assert len(models) == len(again) > 0 and not any(differing(a, b) for a, b in zip(models, again))


def test_in_realtime_a_new_user_has_no_place_in_a_model(cli, small, monkeypatch):
    train, profile, target = split(small.ratings, "realtime", 2, 7)
    new = np.unique(target.users)
    for name in ("SVD", "BiasSVD", "SVD++"):
        model = trained(name, small, train, test="realtime")
        assert not model.p[new].any() and not model.bu[new].any() and np.abs(model.p).sum(1).astype(bool).sum() == 48
    a, b = (trained("LFG-item", small, R, test="realtime") for R in (train, train.with_values(6 - train.values)))
    assert np.abs(a.M - b.M)[:, new].max() < 1e-6 < 1e-3 < np.abs(a.M - b.M).max()        # but for the penalty
    assert a.M[:, new].any() and not a.bi[new].any() and (a.bi != 0).sum() == 48
    generate, seen = LFG.generate, []
    monkeypatch.setattr(LFG, "generate", lambda model, R, E: seen.append((R, E)) or generate(model, R, E))
    run_recorded(monkeypatch, "realtime", "LFG-item", small)
    (R, F), = seen
    assert pairs(R) == pairs(train.T) and F is small.F      # no profile


@pytest.mark.parametrize("test", COLUMNS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_lfg_dual_averages_and_models_are_trained_once_a_fold(cli, small, monkeypatch, test, seeds):
    trained, predicted = record(experiments, "train", monkeypatch.setattr), record_predictions(monkeypatch.setattr)
    assert cli("--dataset", "synthetic", "--test", test, "--folds", 2, 4, "--seed", 7, "--seeds", seeds)[0] == 0
    others = ["SVD", "BiasSVD", "SVD++", "LFG"] if test in ("basic", "realtime") else ["BiasSVD", "LFG"]
    assert [a[0] for a, _ in trained] == 2 * (others + ["LFG-item"] * seeds)
    assert [a[4] for a, _ in trained] == 2 * ([7] * len(others) + list(range(7, 7 + seeds)))
    counts = experiments.COUNTS if test == "coldstart" else [None]
    assert [a[0] for a, _ in predicted] == 2 * [c for c in COLUMNS[test] for _ in counts]
    by_column = {c: [call for call in predicted if call[0][0] == c] for c in COLUMNS[test]}
    for n, count in enumerate(counts):                      # of fold 2
        (_, settings, view, ratings, profile, target), lfg = by_column["LFG"][n]
        (_, first), (_, dual) = by_column["LFG-item"][n], by_column["LFG-dual"][n]
        sides = [experiments.predictor("LFG-item", [model], settings, view, ratings)(profile, target)
                 for _, (model, _) in trained[len(others):len(others) + seeds]]
        weight = settings["LFG-dual"]["user_weight"]
        if count is not None:
            weight += (settings["LFG-dual"]["empty_weight"] - weight) * 5 / (5 + count)
        assert np.array_equal(sides[0], first) and settings["LFG-dual"]["seeds"] == seeds and 0 < weight < 1
        assert dual == pytest.approx(weight * lfg + (1 - weight) * np.mean(sides, axis=0), abs=1e-5)
        assert all(np.abs(side - dual).max() > 1e-3 for side in sides)


def test_predictions_are_clipped_to_the_scale_seen_in_training(cli, small, monkeypatch):
    train, _, target = parts_of(small, "basic")
    d = with_ratings(small, train.where(train.values == 5), 4)
    monkeypatch.setattr(experiments, "predictor", lambda *_: lambda profile, target: 99 - 198 * (target.users % 2))
    (rmse,), _, _ = run_recorded(monkeypatch, "basic", "BiasSVD", d)
    assert rmse == pytest.approx(np.sqrt(np.mean((np.where(target.users % 2, 1, 4) - target.values) ** 2)))


@pytest.mark.parametrize("test,column", OF_NEW)
def test_another_rating_scale_needs_no_other_settings(cli, small, monkeypatch, test, column):
    tenfold = replace(small, ratings=small.ratings.with_values(small.ratings.values * 10 + 7))             # 17 to 57
    a, _, _ = run_recorded(monkeypatch, test, column, small)
    b, _, _ = run_recorded(monkeypatch, test, column, tenfold)
    assert b == pytest.approx([10 * rmse for rmse in a], rel=1e-3)


def test_rating_units_worked_by_hand():
    scales = [[1, 5], [1, 10], [0.5, 2, 5], [-1, 1], [3, 3]]               # all alike: nothing to divide by
    assert [experiments.rating_unit(Ratings(np.arange(len(v)), [0] * len(v), v, (3, 1))) for v in scales] == [
        1, 2.25, 1.125, 0.5, 1]


def test_settings_are_those_of_the_nearest_in_size_by_factor(small):
    nearest = {1000: "ml-100k", 300_000: "ml-100k", 330_000: "ml-1m", 20_000_000: "ml-1m"}   # 316,000 lies between
    for n, name in nearest.items():
        got = experiments.settings_for(replace(small, ratings=range(n)), "basic", experiments.parse([]))
        assert got == experiments.SETTINGS[name, "basic"]


def test_the_unit_of_ratings_is_that_of_the_training_part(cli, small, monkeypatch):
    train = parts_of(small, "basic").train
    d = with_ratings(small, train.where(train.values == 5), 4)             # only test ratings are 5
    calls = record(experiments, "train", monkeypatch.setattr)
    run_recorded(monkeypatch, "basic", "BiasSVD", d)
    ((_, _, ratings, *_), _), = calls
    assert [ratings.values.min(), ratings.values.max()] == pytest.approx([4 / 3, 16 / 3])     # 1 and 4 over 0.75


def test_the_view_of_new_items_has_items_for_users(small):
    R, *sides = experiments.view_of(small, "newitem")
    assert R.shape == (40, 60) and pairs(R.T) == pairs(small.ratings)
    assert sides[0] is small.F and sides[1] is small.E and sides[2:] == ["LFG-item", "LFG"]
    for test in ("basic", "realtime", "coldstart"):
        R, *sides = experiments.view_of(small, test)
        assert R is small.ratings and sides[0] is small.E and sides[1] is small.F and sides[2:] == ["LFG", "LFG-item"]


def test_new_item_folds(small):
    R = small.ratings                                       # of item 0 a single rating is left, of item 1 none
    d = replace(small, ratings=R.where((R.items > 1) | (np.arange(900) == np.flatnonzero(R.items == 0)[0])))
    view, new = experiments.view_of(d, "newitem"), []
    for fold in range(1, 6):
        (train, profile, target), = experiments.cases_of(view.ratings, "newitem", fold, 7)
        assert len(train) + len(profile) + len(target) == len(d.ratings)
        assert pairs(train.T) | pairs(profile.T) | pairs(target.T) == pairs(d.ratings)       # so they are disjoint
        assert train.shape == (40, 60) and not (train.counts > 0)[target.users].any()
        assert set(profile.users.tolist()) <= set(target.users.tolist())
        assert target.counts[0] == 0 or (target.counts[0], profile.counts[0]) == (1, 0)
        new += np.unique(target.users).tolist()
    assert sorted(new) == [0, *range(2, 40)]


@pytest.fixture(scope="module")
def busy():
    return synthetic(60, 120, 4000, seed=2)


def test_cold_start_shows_so_many_ratings_of_the_same_users(busy):
    exactly = 0
    for fold in range(1, 6):
        cases = experiments.cases_of(busy.ratings, "coldstart", fold, 7)
        train, profile, target = split(busy.ratings, "realtime", fold, 7)
        steady, exactly = np.flatnonzero(profile.counts >= 50), exactly + (profile.counts == 50).sum()
        assert len(cases) == len(COUNTS) == 7 and 0 < len(steady) < len(np.unique(target.users))
        for count, case in zip(COUNTS, cases):
            assert pairs(case.train) == pairs(train)
            assert pairs(case.target) == pairs(target.where(np.isin(target.users, steady)))
            assert case.profile.counts[steady].tolist() == [count] * len(steady)
            assert len(case.profile) == count * len(steady) and pairs(case.profile) <= pairs(profile)
        for fewer, more in zip(cases, cases[1:]):
            assert pairs(fewer.profile) < pairs(more.profile)
    assert exactly > 0                                      # who are just enough


@pytest.mark.parametrize("test", COLUMNS)
def test_data_too_small_for_a_test_is_told(small, test):
    with pytest.raises(DataError, match="^too few users or ratings for five folds; give a larger data set$"):
        experiments.cases_of(small.ratings.where(slice(1)), test, 2, 7)
    if test == "coldstart":
        with pytest.raises(DataError, match="^no new user of fold 2 has 50 ratings to show; give data with more"):
            experiments.cases_of(small.ratings, test, 2, 7)


def test_folding_in_an_empty_profile_gives_the_mean_of_the_training_part():
    train, q, bi, mu, _ = profiles_of_each_length()         # its user 0 has no ratings
    A, ridge, xs = np.c_[q, np.ones(12)], np.diag([0.7] * 4 + [0.3]), []
    for u in range(1, 13):
        _, items, values = train.rows(np.array([u]))
        xs.append(np.linalg.solve(A[items].T @ A[items] + ridge, A[items].T @ (values - mu - bi[items])))
    mean, target = np.mean(xs, axis=0), Ratings(np.zeros(12), np.arange(12), np.zeros(12), (13, 12))
    nothing = train.where(train.users < 0)
    to_mean, to_zero = (experiments.folding(q, bi, mu, train, to_mean=t, l2=0.7, l2_bias=0.3)(nothing, target)
                        for t in (True, False))
    assert np.abs(mean).min() > 1e-3 and to_mean == pytest.approx(mu + bi + A @ mean)
    assert to_zero == pytest.approx(mu + bi)


@pytest.mark.parametrize("test,column", [("coldstart", "μ + bi"), ("newitem", "μ + bu")])
def test_the_placeholder_does_not_look_at_the_profile(small, test, column):
    view, (train, profile, target) = experiments.view_of(small, test), parts_of(small, test)
    model = BiasSVD(n_factors=3, epochs=3).fit(train)
    predict = experiments.predictor(column, [model], {}, view, train)
    assert np.array_equal(predict(profile, target), model.mu + model.bi[target.items])
    assert np.array_equal(predict(profile.where(profile.users < 0), target), predict(profile, target))


@pytest.mark.parametrize("empty_weight,weights", [(None, [0.2, 0.2, 0.2]), (0.6, [0.6, 0.4, 0.2 + 0.4 * 5 / 25])])
def test_lfg_dual_weighs_by_the_length_of_the_profile(empty_weight, weights):
    profile = Ratings(np.repeat([1, 2], [5, 20]), np.r_[:5, :20], np.ones(25), (3, 20))      # 0, 5 and 20 ratings
    target = Ratings([0, 1, 2], [0, 0, 0], [1, 1, 1], (3, 20))
    asked = []

    def predicting(*values):
        return lambda *arguments: asked.append(arguments) or np.array(values, float)

    by_items = [predicting(0, 0, 0), predicting(2, 4, 6)]   # mean 1, 2, 3
    got = experiments.joined(predicting(10, 20, 30), by_items, profile, target, 0.2, empty_weight, seeds=2)
    assert got == pytest.approx([10 * w + 1 * (1 - w) for w in weights] * np.array([1, 2, 3]))
    assert asked == [(profile, target)] * 3


@pytest.mark.parametrize("test", ["basic", "realtime"])
@pytest.mark.parametrize("dataset", ["ml-100k", "ml-1m"])
def test_choices_lead_from_the_letter_to_the_settings_in_use(dataset, test):
    settings = experiments.SETTINGS[dataset, test]
    rows = experiments.choices({name: dict(setting) for name, setting in settings.items()})
    (first, letter), *_, (last, in_use) = rows.values()
    assert first == "LFG" and letter["LFG"].items() > {"raw": True, "mask": 0.1}.items()
    letter = LFG(**letter["LFG"])
    assert (letter.l2, letter.l2_M, letter.dropout, letter.n_factors, letter.shown_weight) == (0, 0, 0, 50, 1)
    assert (last, in_use) == ("LFG-dual", settings)
    named = {re.search(r"\((.*)\)$", name)[1]: row for name, row in rows.items() if name.endswith(")")}
    assert named == {column: (column, settings) for column in ("LFG", "LFG-item", "LFG-dual")}


def test_each_choice_changes_what_it_names():
    settings = experiments.SETTINGS["ml-100k", "basic"]
    *made, (averaged, mean), (_, in_use) = experiments.choices(settings).values()
    assert [column for column, _ in made] == ["LFG"] * 6 + ["LFG-item"] * 2
    setting = [vars(experiments.CLASSES[column](**s[column])) for column, s in made]
    changed = [{k for k in a if a[k] != b[k]} for a, b in zip(setting, setting[1:])]
    assert changed[:5] == [{"dropout"}, {"l2", "l2_M"}, {"raw"}, {"n_factors"}, {"mask"}]
    assert changed[6] == {"mask", "shown_weight"} and setting[6]["mask"] == setting[5]["mask"]
    assert setting[6]["shown_weight"] == 1 and averaged == "LFG-dual"
    assert mean == {**in_use, "LFG-dual": {**in_use["LFG-dual"], "user_weight": 0}}


def folds_of(n_test, **rmse):
    return [{"n_train": 100, "n_test": n, "rmse": {name.replace("_", "-"): v[at] for name, v in rmse.items()}}
            for at, n in enumerate(n_test)]


def averages(folds):
    return {c: np.mean([f["rmse"][c] for f in folds]) for c in folds[0]["rmse"]}


def test_differences_worked_by_hand(capsys):
    # differences -0.02 and -0.04: mean -0.03, variance 0.0002; n_test / n_train 0.25 and 0.35: mean 0.3
    # half = 12.706 sqrt((1 / 2 + 0.3) * 0.0002) = 12.706 sqrt(0.00016) = 0.16072
    folds = folds_of([25, 35], SVD=[1, 1.5], LFG=[0.9, 1.47], LFG_item=[0.98, 1.46], LFG_dual=[0.99, 1.49])
    found, = experiments.differences(folds, {"SVD": 1.25, "LFG": 1.23, "LFG-item": 1.22, "LFG-dual": 1.24})
    assert found == {"model": "LFG-item", "baseline": "SVD", "mean": pytest.approx(-0.03),
                     "interval": pytest.approx([-0.19072, 0.13072], abs=1e-5)}
    assert capsys.readouterr().out == "- LFG-item minus SVD: -0.0300, 95 % interval -0.1907 to +0.1307\n\n"
    # five folds, -0.01 to -0.05: mean -0.03, variance 0.00025; half = 2.776 sqrt((1 / 5 + 0.25) * 0.00025) = 0.029444
    rmse = [0.99, 0.98, 0.97, 0.96, 0.95]
    folds = folds_of([25] * 5, SVD=[1] * 5, LFG=rmse, BiasSVD=[1.1] * 5)
    found = experiments.differences(folds, averages(folds))
    assert [(f["model"], f["baseline"]) for f in found] == [("LFG", "SVD"), ("LFG", "BiasSVD")]
    assert found[0]["interval"] == pytest.approx([-0.059444, -0.000556], abs=1e-6)
    assert found[1]["interval"] == pytest.approx([-0.159444, -0.100556], abs=1e-6)


def test_quantiles_of_students_t():
    middles = (np.arange(10_000) + 0.5) / 10_000            # the density is cos^(df - 1) by atan(x / sqrt(df))
    for folds, t in experiments.T_975.items():
        below, everything = (end * (np.cos(end * middles) ** (folds - 2)).sum()
                             for end in (np.arctan(t / (folds - 1) ** 0.5), np.pi / 2))
        assert below / everything == pytest.approx(0.95, abs=3e-5)
    assert list(experiments.T_975) == [2, 3, 4, 5]


@pytest.mark.parametrize("folds", [
    folds_of([25], SVD=[1], LFG=[0.9]), folds_of([25, 25], LFG=[1, 1.1], LFG_item=[2, 3]),
    folds_of([25, 25], SVD=[1, 1.1], BiasSVD=[2, 3])], ids=["one fold", "no baseline", "no LFG"])
def test_no_differences_where_there_is_nothing_to_compare(capsys, folds):
    assert experiments.differences(folds, averages(folds)) == [] and capsys.readouterr().out == ""


BASIC, REALTIME = ("LFG Rating Prediction 5-Fold Cross-Validation Results on ",
                   "LFG Real-Time Rating Prediction 5-Fold Cross-Validation Results on ")
TABLES = [                                                  # number, data set, test, title, the paper's averages
    (1, "ml-100k", "basic", f"Table 1: {BASIC}MovieLens-100k", [0.9404, 0.9136, 0.9130]),
    (2, "ml-1m", "basic", f"Table 2: {BASIC}MovieLens-1m", [0.8672, 0.8607, 0.8566]),
    (3, "ml-100k", "realtime", f"Table 3: {REALTIME}MovieLens-100k", [1.1274, 1.0305, 0.9255]),
    (4, "ml-1m", "realtime", f"Table 4: {REALTIME}MovieLens-1m", [1.1151, 0.9835, 0.8837]),
    (None, "synthetic", "basic", f"{BASIC}synthetic", None),
    (None, "ml-1m", "newitem", "New Items, 5-Fold Cross-Validation Results on MovieLens-1m", None)]


@pytest.mark.parametrize("number,dataset,test,title,paper", TABLES)
def test_a_table_is_markdown_aligned_by_eye_and_json_holds_the_same(cli, tmp_path, number, dataset, test, title, paper):
    path = write(tmp_path, {"old.json": "[" * 9999}) / "old.json"
    code, out, err = cli("--dataset", dataset, "--test", test, "--seed", 7, "--json", path)
    table, = json.loads(path.read_text())
    folds, average, differences = (table.pop(key) for key in ("folds", "average", "differences"))
    names = COLUMNS[test]
    paper = paper and dict(zip(["SVD", "BiasSVD", "LFG"], paper))
    assert (code, err) == (0, "") and table == {
        "table": number, "dataset": dataset, "test": test, "seed": 7, "models": names, "paper": paper}
    parts = [parts_of(cli.data, test, n) for n in range(1, 6)]
    for n, (fold, part) in enumerate(zip(folds, parts), 1):
        rmse, seconds = fold.pop("rmse"), fold["seconds"]
        assert fold == {"fold": n, "n_train": len(part.train), "n_test": len(part.target), "seconds": seconds}
        assert list(rmse) == list(seconds) == names
        fold["row"] = [str(n), str(len(part.train)), str(len(part.target))] + [f"{r:.4f}" for r in rmse.values()]
        fold["rmse"] = rmse
    assert len(folds) == 5 and average == {m: pytest.approx(np.mean([f["rmse"][m] for f in folds])) for m in names}
    best = min(names[-3:], key=average.get)                 # of LFG, LFG-item, LFG-dual
    assert [(d["model"], d["baseline"], d["mean"]) for d in differences] == [
        (best, m, pytest.approx(average[best] - average[m])) for m in names[:-3]]
    first, blank, *lines, end = out.splitlines()
    lines, (after, *told) = lines[:-1 - len(differences)], lines[-1 - len(differences):]
    assert told == ["- {} minus {}: {:+.4f}, 95 % interval {:+.4f} to {:+.4f}".format(
        d["model"], d["baseline"], d["mean"], *d["interval"]) for d in differences]
    assert (first, blank, after, end) == (title, "", "", "") and re.fullmatch(r"\|-+\|(-+:\|)+", lines[1])
    assert len({tuple(n for n, c in enumerate(line) if c == "|") for line in lines}) == 1
    last = [["Average RMSE", "", ""] + [f"{r:.4f}" for r in average.values()]]
    last += [["Paper", "", ""] + [f"{paper[m]:.4f}" if m in paper else "" for m in names]] if paper else []
    last += [["Seconds", "", ""] + [f"{sum(f['seconds'][m] for f in folds):.1f}" for m in names]]
    header, _, *rows = rows_of(out)
    assert header == ["Fold", "Train Set", "Test Set"] + [f"{name} RMSE" for name in names]
    assert rows == [fold["row"] for fold in folds] + last


def test_all_is_four_tables_in_the_papers_order(cli, tmp_path):
    code, out, _ = cli("--dataset", "all", "--test", "all", "--folds", 2, "--json", tmp_path / "json")
    assert code == 0 and re.findall("Table.*", out) == [title for _, _, _, title, _ in TABLES[:4]]
    assert [table["table"] for table in json.loads((tmp_path / "json").read_text())] == [1, 2, 3, 4]


def test_two_runs_print_the_same_digits(cli):
    a, b, c = ([row for row in rows_of(cli("--dataset", "synthetic", "--folds", 3, "--seed", seed)[1])
                if row[0] != "Seconds"] for seed in (5, 5, 6))
    assert a == b != c and len(a) == 8


def test_folds_are_those_asked_for_and_digits_do_not_depend_on_what_else_is_run(cli):
    rows = rows_of(cli("--dataset", "synthetic", "--test", "basic", "--folds", "4", "2", "4",
                       "--models", "lfg", "svd")[1])
    assert rows[0][3:] == ["SVD RMSE", "LFG RMSE"] and [row[0] for row in rows[2:4]] == ["2", "4"] and len(rows) == 6
    everything = rows_of(cli("--dataset", "synthetic", "--test", "basic")[1])
    assert [[row[3], row[6]] for row in everything[3:7:2]] == [row[3:] for row in rows[2:4]]


@pytest.mark.parametrize("test,models,columns", [
    ("basic", "", "SVD, BiasSVD, SVD++, LFG, LFG-item, LFG-dual"),
    ("realtime", "", "SVD, BiasSVD, BiasSVD fold-in, SVD++ fold-in, LFG, LFG-item, LFG-dual"),
    ("basic", "lfg-item svdpp", "SVD++, LFG-item"), ("realtime", "lfg-item svdpp", "SVD++ fold-in, LFG-item"),
    ("realtime", "lfg-dual biassvd", "BiasSVD, BiasSVD fold-in, LFG-dual"),
    ("newitem", "", "μ + bu, BiasSVD fold-in, LFG, LFG-item, LFG-dual")])
def test_columns_are_those_asked_for(cli, test, models, columns):
    arguments = ["--models", *models.split()] if models else []
    out = cli("--dataset", "synthetic", "--test", test, "--folds", 1, *arguments)[1]
    assert ", ".join(rows_of(out)[0][3:]) == columns.replace(",", " RMSE,") + " RMSE"


def check_folds(table, numbers, counts=None):
    """That a JSON table has these folds of every model, and averages of them; a number or one for each of counts."""
    shape = () if counts is None else (len(counts),)
    assert table["models"] == list(table["average"]) and [f["fold"] for f in table["folds"]] == numbers
    for fold in table["folds"]:
        assert list(fold) == ["fold", "n_train", "n_test", "rmse", "seconds"]
        assert list(fold["rmse"]) == list(fold["seconds"]) == table["models"]
        assert all(np.shape(fold["seconds"][m]) == () and fold["seconds"][m] > 0 for m in table["models"])
    for model in table["models"]:
        rmse = np.array([f["rmse"][model] for f in table["folds"]])
        assert rmse.shape == (len(numbers), *shape) and (rmse > 0.1).all() and (rmse < 3).all()
        assert table["average"][model] == pytest.approx(rmse.mean(0))


SVG = "{http://www.w3.org/2000/svg}"


def points_of(svg):
    """The points (n, 2) of each polyline of an SVG."""
    lines = ElementTree.fromstring(svg).findall(f".//{SVG}polyline")
    return [np.array([point.split(",") for point in line.get("points").split()], float) for line in lines]


@pytest.mark.parametrize("dataset", ["synthetic", "all"])
def test_cold_start_is_a_row_a_count_and_a_curve_a_model(cli, busy, tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(experiments, "COUNTS", COUNTS)
    cli.data, json_path, svg_path = busy, tmp_path / "json", tmp_path / "svg"
    code, out, err = cli("--dataset", dataset, "--test", "coldstart", "--folds", 1, 3, "--seed", 7, "--quiet",
                         "--json", json_path, "--svg", svg_path)
    tables, names = json.loads(json_path.read_text()), ["synthetic"] if dataset == "synthetic" else ["ml-100k", "ml-1m"]
    assert (code, err) == (0, "") and [table["dataset"] for table in tables] == names
    rows = [row for row in rows_of(out) if row[0][0] != "-"]
    for table in tables:
        check_folds(table, [1, 3], COUNTS)
        head = {key: table[key] for key in table if key not in ("folds", "average", "dataset")}
        assert head == {"table": None, "test": "coldstart", "seed": 7, "models": COLUMNS["coldstart"],
                        "ratings": [0, 1, 2, 5, 10, 20, 50]}
        for fold in table["folds"]:
            case = experiments.cases_of(busy.ratings, "coldstart", fold["fold"], 7)[0]
            assert (fold["n_train"], fold["n_test"]) == (len(case.train), len(case.target))
        printed, rows = rows[:9], rows[9:]
        assert printed[0] == ["Ratings"] + [f"{c} RMSE" for c in COLUMNS["coldstart"]] and printed[8][0] == "Seconds"
        assert printed[1:8] == [[str(count)] + [f"{table['average'][c][n]:.4f}" for c in COLUMNS["coldstart"]]
                                for n, count in enumerate(COUNTS)]
    assert rows == [] and [points.shape for points in points_of(svg_path.read_text())] == [(7, 2)] * 5 * len(tables)
    assert re.findall("^Cold Start.*", out, re.M) == [
        "Cold Start by Ratings in the Profile, 5-Fold Cross-Validation Results on "
        + name.replace("ml-", "MovieLens-") for name in names]


def test_ablation_is_a_row_a_choice_in_both_tests(cli, tmp_path):
    code, out, err = cli("--dataset", "synthetic", "--test", "ablation", "--folds", 1, 3, "--seed", 7, "--json",
                         tmp_path / "json")
    tables = json.loads((tmp_path / "json").read_text())
    choices = list(experiments.choices(experiments.SETTINGS["ml-100k", "basic"]))
    assert (code, err) == (0, "") and len(choices) == 10
    for table, of in zip(tables, ["basic", "realtime"]):
        check_folds(table, [1, 3])
        assert {key: table[key] for key in table if key not in ("folds", "average")} == {
            "table": None, "dataset": "synthetic", "test": "ablation", "of": of, "seed": 7, "models": choices}
    assert rows_of(out)[0] == ["Choice", "Basic RMSE", "Real-time RMSE"] and out.startswith("What Each Choice Buys, 5-")
    assert len(tables) == 2 and rows_of(out)[2:] == [
        [choice] + [f"{table['average'][choice]:.4f}" for table in tables] for choice in choices]


@pytest.mark.parametrize("dataset", experiments.SIZES)
def test_ablation_runs_with_the_settings_of_each_data_set(cli, monkeypatch, dataset):
    monkeypatch.setattr(experiments, "SIZES", {dataset: 900})
    code, out, _ = cli("--dataset", "synthetic", "--test", "ablation", "--folds", 2)
    assert code == 0 and len(rows_of(out)) == 12


def test_ablation_trains_no_model_twice(cli, monkeypatch):
    trained = record(experiments, "train", monkeypatch.setattr)
    cli("--dataset", "synthetic", "--test", "ablation", "--folds", 2)
    models = [(name, sorted(map(str, setting.items())), seed)
              for (name, setting, _, _, seed, _), _ in trained[:len(trained) // 2]]
    assert all(models.count(model) == 1 for model in models)


@pytest.mark.parametrize("test", ["newitem", "coldstart"])
def test_models_that_a_test_does_not_have_are_told(cli, tmp_path, test):
    svg = ["--svg", tmp_path / "svg"] if test == "coldstart" else []
    code, out, err = cli("--dataset", "synthetic", "--test", test, "--folds", 2, "--models", "svd", *svg)
    assert (code, out) == (2, "") and err.count("\n") == 1


@pytest.mark.parametrize("test", COLUMNS)
@pytest.mark.parametrize("dataset", experiments.SIZES)
def test_the_settings_of_each_data_set_run(cli, monkeypatch, dataset, test):
    monkeypatch.setattr(experiments, "SIZES", {dataset: 900})
    used = record(experiments, "evaluate", monkeypatch.setattr)
    code, out, _ = cli("--dataset", "synthetic", "--test", test, "--folds", 2)
    assert code == 0 and rows_of(out)[0][-1] == "LFG-dual RMSE"
    assert [(a[0], a[1]) for a, _ in used] == [(c, experiments.SETTINGS[dataset, test]) for c in COLUMNS[test]]


@pytest.mark.parametrize("n,test", [(0, "basic"), (1, "realtime")])
def test_rows_of_the_ablation_that_name_a_column_are_that_column(cli, tmp_path, n, test):
    for run in ("ablation", test):
        assert cli("--dataset", "synthetic", "--test", run, "--folds", 2, "--json", tmp_path / run)[0] == 0
    by_choice, by_column = (json.loads((tmp_path / run).read_text())[at]["average"]
                            for run, at in (("ablation", n), (test, 0)))
    named = {choice.rsplit("(", 1)[1][:-1]: rmse for choice, rmse in by_choice.items() if choice.endswith(")")}
    assert named == {column: by_column[column] for column in ("LFG", "LFG-item", "LFG-dual")}
    assert len(set(by_choice.values())) == 10               # each choice does something


def cold_table(name, **average):
    return {"dataset": name, "models": list(average), "ratings": [0, 1, 5], "average": average}


def test_curves_draw_a_line_a_model_and_a_panel_a_data_set():
    svg = experiments.curves([cold_table("a", LFG=[1.0, 0.95, 0.9], SVD=[1.1, 1.1, 0.8]),
                              cold_table("b", LFG=[0.7, 0.6, 0.65], SVD=[0.5, 0.6, 0.55])])
    lines, root = points_of(svg), ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and [line.shape for line in lines] == [(3, 2)] * 4
    for a, b in (lines[:2], lines[2:]):
        assert np.array_equal(a[:, 0], b[:, 0]) and (np.diff(a[:, 0]) > 0).all()
    assert lines[0][-1, 0] < lines[2][0, 0]                 # one panel beside the other
    heights = np.r_[lines[0][:, 1], lines[1][:, 1]]
    rmse = np.array([1.0, 0.95, 0.9, 1.1, 1.1, 0.8])
    assert np.polyfit(rmse, heights, 1)[0] < 0 and np.corrcoef(rmse, heights)[0, 1] < -0.9999     # lower is better
    width, height = map(float, root.get("viewBox").split()[2:])
    corner = np.concatenate(lines)
    assert (corner >= 0).all() and (corner <= [width, height]).all()
    colours = [line.get("stroke") for line in root.findall(f".//{SVG}polyline")]
    assert colours[:2] == colours[2:] and colours[0] != colours[1]
    shown = {text.text: text.get("fill") for text in root.findall(f".//{SVG}text")}
    assert (shown["LFG"], shown["SVD"]) == tuple(colours[:2]) and {"a", "b", "0", "1", "5"} <= shown.keys()


def test_curves_lie_where_the_axis_says():
    svg = experiments.curves([cold_table("a", LFG=[1.0, 0.96, 0.9])])
    texts = ElementTree.fromstring(svg).findall(f".//{SVG}text")
    across = {t.text: float(t.get("x")) for t in texts if t.get("text-anchor") == "middle"}
    up = {t.text: float(t.get("y")) - 4 for t in texts if t.get("text-anchor") == "end"}
    (points,) = points_of(svg)
    assert points[:, 0] == pytest.approx([across["0"], across["1"], across["5"]], abs=0.51)
    assert points[:, 1] == pytest.approx([up["1.00"], up["0.96"], up["0.90"]], abs=0.11)


def test_a_data_sets_name_is_escaped_in_curves():
    svg = experiments.curves([cold_table("<R&D>", LFG=[1.0, 0.96, 0.9])])
    assert "<R&D>" in [text.text for text in ElementTree.fromstring(svg).findall(f".//{SVG}text")]


def test_svg_is_drawn_after_each_table(cli, tmp_path, monkeypatch):
    written = record(experiments, "write_whole", monkeypatch.setattr)
    assert cli("--dataset", "all", "--test", "coldstart", "--folds", 2, "--svg", tmp_path / "svg")[0] == 0
    assert [len(points_of(text)) for (_, text), _ in written] == [5, 10]


def test_values_of_the_grid_worked_by_hand():
    got = [experiments.scaled(v, f) for v, f in (((0.3, 1.0), 1.4), ((0.3, 1.0), 0.5), (0.3, 1.4), (50, 0.5), (1, 0.5))]
    assert got == [(0.42, 1.0), (0.15, 0.5), 0.42, 25, 1]   # no probability above 1, no count below


@pytest.mark.parametrize("of", COLUMNS)
def test_tune_shows_the_tests_asked_for(cli, tmp_path, monkeypatch, of):
    monkeypatch.setattr(experiments, "GRID", {group: {"l2": (2,)} for group in experiments.GRID})
    path = tmp_path / "json"
    code, out, err = cli("--dataset", "synthetic", "--test", "tune", "--of", of, "--seed", 7, "--json", path)
    tables, columns = json.loads(path.read_text()), [c for c in COLUMNS[of] if c[0] != "μ"]
    assert (code, err) == (0, "") and [t.pop("models") for t in tables] == [[c] for c in columns]
    for table, column in zip(tables, columns):
        rows = table.pop("grid")
        assert table == {"table": None, "dataset": "synthetic", "test": "tune", "of": of, "seed": 7}
        assert all(list(row) == ["changed", "rmse", "seconds"] and 0.1 < row["rmse"] < 3 for row in rows)
        assert rows[0]["changed"] == "in use" and (len(rows) > 1) == (column != "LFG-dual")
        assert all(re.fullmatch(r"(fold-in )?l2 = [\d.]+", row["changed"]) for row in rows[1:])
    assert re.findall("^Validation, synthetic (.*?):", out, re.M) == [f"{of}, {column}" for column in columns]


@pytest.mark.parametrize("test,column,groups", [
    ("basic", "SVD", ["SVD"]), ("basic", "LFG-item", ["LFG-item", "LFG-item fold-in"]),
    ("basic", "LFG-dual", ["LFG-dual"]),
    ("realtime", "LFG-item", ["LFG-item", "LFG-item fold-in"]),
    ("realtime", "SVD++ fold-in", ["SVD++", "SVD++ fold-in"]),
    ("realtime", "BiasSVD", ["BiasSVD"]),
    ("newitem", "LFG", ["LFG", "LFG fold-in"]), ("newitem", "LFG-item", ["LFG-item"]),
    ("coldstart", "LFG", ["LFG"]), ("coldstart", "LFG-dual", ["LFG-dual"])])
def test_tune_prints_the_setting_in_use_and_its_neighbours(cli, tmp_path, monkeypatch, test, column, groups):
    evaluated = record(experiments, "evaluate", monkeypatch.setattr)
    model, = (m for m, added in experiments.COLUMNS[test].items() if column in added)
    shown, asked = (COLUMNS, []) if test == "basic" else ([test], ["--of", test])
    code, out, _ = cli("--dataset", "synthetic", "--test", "tune", "--models", model, *asked, "--json",
                       tmp_path / "json")
    tables, used = json.loads((tmp_path / "json").read_text()), experiments.SETTINGS["ml-100k", test]
    assert code == 0 and [(t["test"], t["of"], *t["models"]) for t in tables] == [
        ("tune", of, c) for of in shown for c in experiments.COLUMNS[of].get(model, []) if c[0] != "μ"]
    assert [row[:2] for row in rows_of(out) if "RMSE" not in row and set(row[0]) != {"-"}] == [
        [row["changed"], f"{row['rmse']:.4f}"] for table in tables for row in table["grid"]]
    at = sum(len(t["grid"]) for t in tables[:[(t["of"], *t["models"]) for t in tables].index((test, column))])
    grid, = (t["grid"] for t in tables if (t["of"], *t["models"]) == (test, column))
    (_, first, *_), *others = [a for a, _ in evaluated[at:at + len(grid)]]
    assert first == used and grid[0]["changed"] == "in use"
    changes = [[(g, k, s[1][g][k]) for g in used for k in s[1][g] if s[1][g][k] != used[g].get(k)]
               for s in others]
    labels = [[f"{experiments.label(g, k)} = {v}" for g, k, v in change] for change in changes]
    assert labels == [[row["changed"]] for row in grid[1:]]
    assert [g for (g, _, _), in changes] == [g for g in groups for k, f in experiments.GRID[g].items() for _ in f
                                             if (test, k) != ("basic", "empty_weight")]
    if column == "SVD":
        assert ("SVD", "n_factors", 2) in sum(changes, []) and ("SVD", "n_factors", 8) in sum(changes, [])


def test_help_shows_all_defaults(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = cli("--help")
    shown = dict(re.findall(r"^  (--[\w-]+)[\s\S]*?\(default: (.*)\)$", out, re.M))
    defaults = {f"--{name.replace('_', '-')}": str(value) for name, value in vars(experiments.parse([])).items()}
    assert code == 0 and shown == defaults
    assert set(defaults) == {"--dataset", "--test", "--of", "--models", "--folds", "--seed", "--seeds", "--data-dir",
                             "--json", "--svg", "--quiet"}


@pytest.mark.parametrize("arguments,message", [
    (["--folds", "6"], "--folds"), (["--folds", "0"], "--folds"), (["--folds", "x"], "--folds"),
    (["--models", "knn"], "knn"), (["--test", "other"], "other"), (["--seed", "-1"], "--seed"), (["--x"], "--x"),
    (["--seeds", "0"], "--seeds"), (["--seeds", "-1"], "--seeds"), (["--seeds", "x"], "--seeds"),
    (["--dataset", "nowhere"], "nowhere: no such file or folder"), (["--dataset", "few.csv"], "few users"),
    (["--dataset", "half"], "u.user is missing"), (["--data-dir", "none"], "no network here"),
    (["--data-dir", "few.csv"], "few.csv"), (["--data-dir", "named"], "u.user is missing"),
    (["--dataset", "synthetic", "--json", "no/such/x.json"], "no/such/x.json"),
    (["--dataset", "synthetic", "--json", "half"], "half"), (["--of", "all"], "--of"),
    (["--dataset", "few.csv", "--test", "newitem"], "few users"),
    (["--dataset", "few.csv", "--test", "coldstart"], "few users"),
    (["--test", "ablation", "--models", "svd"], "--models is not for --test ablation"),
    (["--test", "speed", "--models", "svd"], "--models is not for --test speed"),
    (["--dataset", "synthetic:10x10"], "write synthetic:USERSxITEMSxRATINGS"),
    (["--dataset", "synthetic", "--json", "-"], "standard output is for messages"),
    (["--svg", "x.svg"], "--svg"), (["--test", "newitem", "--svg", "x.svg"], "--svg"),
    (["--test", "coldstart", "--svg", "no/such/x.svg"], "not a plain file in a folder that exists; give another name")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_mistakes_end_in_one_line_and_code_2(cli, tmp_path, monkeypatch, arguments, message):
    no_network(monkeypatch)
    fake_pip(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for folder in ("half", "named/ml-100k"):
        write(tmp_path / folder, {"u.data": "1\t1\t1\t1\n"})
    write(tmp_path, {"few.csv": "user,item,rating\n1,1,1\n"})
    cli.names = ["synthetic"]
    code, _, err = cli("--folds", "1", *arguments)
    assert code == 2 and err.count("\n") == 1 and err.endswith("\n") and message in err


def test_a_mistake_on_the_real_command_line(tmp_path):
    done = subprocess.run([sys.executable, experiments.__file__, "--dataset", "nowhere"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("experiments.py: nowhere: no such file or folder") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--svg"])
def test_an_output_is_a_file_of_its_own(cli, tmp_path, option):
    path = write(tmp_path, CSV) / "ratings.csv"
    other = {"--json": "--svg", "--svg": "--json"}[option]
    for more in (["--dataset", path], ["--dataset", "synthetic", other, tmp_path / "x" / ".." / "ratings.csv"]):
        (tmp_path / "x").mkdir(exist_ok=True)
        code, out, err = cli("--test", "coldstart", option, path, *more)
        assert (code, out, err.count("\n")) == (2, "", 1) and "give " in err
    assert path.read_text(encoding="utf-8") == CSV["ratings.csv"]


@pytest.mark.parametrize("option", ["--json", "--svg"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(cli, tmp_path, monkeypatch, option):
    def half(path, *_, **__):
        Path(path).write_text("[")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lfg.open", half, raising=False)
    path = write(tmp_path, {"old": "[]"}) / "old"
    code, _, err = cli("--dataset", "synthetic", "--folds", 1, "--test", "coldstart", "--models", "lfg", option, path)
    assert code == 2 and err.count("\n") == 1 and f"{path}: No space left on device; make room" in err
    assert path.read_text() == "[]" and os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("option", ["--json", "--svg"])
@pytest.mark.parametrize("path", ["folder", "no/x"])
def test_a_file_that_can_never_be_written_is_told_at_once(cli, tmp_path, path, option):
    (tmp_path / "folder").mkdir()
    code, out, _ = cli("--dataset", "synthetic", "--folds", 1, "--test", "coldstart", "--models", "lfg", option,
                       tmp_path / path)
    assert (code, out, os.listdir(tmp_path)) == (2, "", ["folder"])


@pytest.mark.parametrize("kind", ["link", "socket"])
def test_json_leaves_links_and_special_files_what_they_are(cli, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)                             # a socket stands for what is no plain file: /dev/stdout
    if kind == "link":
        os.symlink("real.json", "x")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    code, _, _ = cli("--dataset", "synthetic", "--folds", 1, "--models", "svd", "--json", "x")
    if kind == "link":
        assert code == 0 and os.path.islink("x") and json.loads(Path("real.json").read_text())
    else:
        assert code == 2 and Path("x").is_socket()


def test_json_has_the_permissions_of_any_new_file(cli, tmp_path):
    plain = write(tmp_path, {"plain": ""}) / "plain"
    assert cli("--dataset", "synthetic", "--folds", 1, "--models", "svd", "--json", tmp_path / "json")[0] == 0
    assert (tmp_path / "json").stat().st_mode == plain.stat().st_mode


def run_few(folder, *before, **options):
    """The real command line on a data set too small for it, which prints a title and a header before it says so."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([*before, sys.executable, experiments.__file__, "--dataset", write(folder / "few", CSV)],
                          stderr=subprocess.PIPE, text=True, env=environment, **options)


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = run_few(tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_is_one_line_and_code_2(tmp_path):
    with open(tmp_path / "out", "w") as out:                # a limit of 0 bytes a file stands for a full disk
        done = run_few(tmp_path, "sh", "-c", 'ulimit -f 0; exec "$@"', "sh", stdout=out)
    assert done.returncode == 2 and done.stderr.startswith("experiments.py: ") and done.stderr.count("\n") == 1


def test_all_data_is_loaded_before_anything_is_trained(cli, tmp_path, monkeypatch):
    no_network(monkeypatch)
    cli.names.remove("ml-1m")
    code, out, err = cli("--dataset", "all", "--models", "svd", "--folds", 1, "--data-dir", tmp_path)
    assert (code, out) == (2, "") and "cannot get ml-1m" in err and err.count("\n") == 1


def test_ctrl_c_keeps_the_folds_printed_so_far(cli, monkeypatch):
    train, trained = experiments.train, []

    def interrupted(*arguments, **options):
        if len(trained) == 4:                               # three models of fold 1, one of fold 2
            raise KeyboardInterrupt
        trained.append(train(*arguments, **options))
        return trained[-1]

    monkeypatch.setattr(experiments, "train", interrupted)
    code, out, err = cli("--dataset", "synthetic", "--models", "svd", "biassvd", "lfg")
    assert code == 130 and err.count("\n") == 1 and "interrupted" in err
    assert [row[0] for row in rows_of(out)[2:]] == ["1"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stderr,more,shown", [(Terminal, [], True), (Terminal, ["--quiet"], False),
                                               (io.StringIO, [], False)])
def test_progress_is_for_terminals(cli, monkeypatch, stderr, more, shown):
    monkeypatch.setattr(sys, "stderr", stderr())
    assert cli("--dataset", "synthetic", "--test", "basic", "--folds", 1, *more)[0] == 0
    assert ("fold 1" in sys.stderr.getvalue()) == shown == bool(sys.stderr.getvalue())


def test_layers_and_models_need_numpy_alone():
    code = "import sys; sys.modules.update(pandas=None, tqdm=None, data=None, experiments=None); import nn, svd, lfg"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(experiments.__file__).parent,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif("LFG_DATA" not in os.environ, reason="LFG_DATA does not name a folder with ml-100k")
def test_real_ml_100k_fold_1_lies_in_its_bands(tmp_path, capsys):
    path = tmp_path / "json"
    assert experiments.main(["--dataset", "ml-100k", "--test", "all", "--folds", "1", "--seeds", "1", "--quiet",
                             "--data-dir", os.environ["LFG_DATA"], "--json", str(path)]) == 0
    basic, realtime = (table["average"] for table in json.loads(path.read_text()))
    bands = {"SVD": (0.915, 0.94), "BiasSVD": (0.89, 0.912), "SVD++": (0.89, 0.912), "LFG": (0.895, 0.915),
             "LFG-item": (0.875, 0.895)}
    assert {name: basic[name] for name, (low, high) in bands.items() if not low < basic[name] < high} == {}
    assert realtime["LFG-item"] < realtime["BiasSVD fold-in"] - 0.01


# The command line: lfg.main


TITLES = ["Matrix, The (1999)", "Heat (1995)", "Heat (1972)", "Postman, The (Postino, Il) (1994)", "Été, L' (1987)",
          "Les Misérables (1995)", "Toy Story (1995)", "54 (1998)", "Unrated (1990)"]
TITLES += [f"Film {n} ({1950 + n})" for n in range(9, 40)]  # by place; the id is 50 more, which the film 54 has not


@pytest.fixture(scope="module")
def films(small, tmp_path_factory):
    """A folder like ML-100k's: 60 users with a profile, 40 films, of which nobody has rated place 8."""
    R, names = small.ratings.where(small.ratings.items != 8), ("artist", "doctor", "None")
    return write(tmp_path_factory.mktemp("films"), {
        "u.data": "".join(f"{u + 1}\t{i + 50}\t{v:g}\t0\n" for u, i, v in zip(R.users, R.items, R.values)),
        "u.user": "".join(f"{u + 1}|{u + 10}|{'FM'[u % 2]}|{names[u % 3]}|0\n" for u in range(60)),
        "u.item": "".join(item_line(n + 50, title, "", ("Drama", "War")[n % 2]) for n, title in enumerate(TITLES))})


@pytest.fixture
def serve(monkeypatch, capsys):
    """serve(arguments...) -> exit code, stdout, stderr of lfg.py, whose networks are tiny."""
    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="ascii"))
        try:
            code = lfg_main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())

    monkeypatch.setattr(experiments, "SETTINGS", {key: tiny(s) for key, s in experiments.SETTINGS.items()})
    return run


@pytest.fixture(scope="module")
def kept(films, tmp_path_factory):
    """Files that lfg.py train has written, by generator."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "SETTINGS", {key: tiny(s) for key, s in experiments.SETTINGS.items()})
        for kind in ("user", "item", "dual"):
            assert lfg_main(["train", "--dataset", str(films), "--out", str(folder / kind), "--generator", kind,
                             "--epochs", "10", "--quiet"]) == 0
    return {kind: folder / kind for kind in os.listdir(folder)}


def told(done):
    """The one line that a command which ends with code 2 says."""
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("lfg.py") and err.endswith("\n")
    return err


def best(done):
    """What recommend --json prints: (id, rating) from the best on."""
    code, out, err = done
    assert (code, err) == (0, "")
    return [(one["id"], one["rating"]) for one in json.loads(out)]


def as_printed(model, places, predicted):
    return [(model.item_ids[place], round(float(rating), 3)) for place, rating in zip(places, predicted)]


@pytest.mark.parametrize("kind,seeds", [("user", 0), ("item", 1), ("dual", 2)])
def test_train_keeps_the_generator_asked_for_and_tells_its_training_rmse(serve, films, tmp_path, kind, seeds):
    path, d = tmp_path / "model", load(str(films))
    code, out, err = serve("train", "--dataset", films, "--out", path, "--generator", kind)
    model = Recommender.load(path)
    assert ("W0" in model.arrays, len(model.sides)) == (kind != "item", seeds)
    assert model.titles.tolist() == TITLES and model.item_ids.tolist() == [str(n + 50) for n in range(40)]
    assert np.flatnonzero(~model.rated).tolist() == [8] and model.E_names == (d.E_names if kind != "item" else [])
    errors = []
    for u in range(60):
        _, items, values = d.ratings.rows(np.array([u]))
        predicted = model.predict(items, values, d.E[u, :len(model.E_names)])[items]
        errors += (predicted.clip(1, 5) - values).tolist()
    megabytes = path.stat().st_size / 1e6
    assert (code, out, err) == (0, "", f"training RMSE {np.mean(np.square(errors)) ** 0.5:.4f}; {path}: "
                                       f"{megabytes:.1f} MB\n") and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("kind,weights", [("user", [1, 1]), ("item", [0, 0]), ("dual", [0.15, 0.5])])
def test_train_has_the_settings_of_cold_start(kept, kind, weights):
    assert Recommender.load(kept[kind]).arrays["weights"].tolist() == np.float32(weights).tolist()
    assert Recommender.load(kept[kind]).ridge == (250, 6)


def test_training_options_reach_the_networks(serve, films, tmp_path, monkeypatch):
    calls = record(experiments, "train", monkeypatch.setattr)
    code, *_ = serve("train", "--dataset", films, "--out", tmp_path / "model", "--epochs", 3, "--factors", 5,
                     "--seeds", 3, "--seed", 7)
    assert code == 0 and [(arguments[0], model.seed, model.epochs) for arguments, (model, _) in calls] == [
        ("LFG", 7, 3), ("LFG-item", 7, 3), ("LFG-item", 8, 3), ("LFG-item", 9, 3)]
    model = Recommender.load(tmp_path / "model")
    assert model.arrays["M"].shape == (5, 40) and [q.shape for q, _ in model.sides] == [(40, 6)] * 3
    assert np.array_equal(model.arrays["W0"], calls[0][1][0].network.layers[0].W)
    assert len({model.arrays[f"q{n}"].tobytes() for n in range(3)}) == 3


def test_seeds_of_the_item_side_alone(serve, films, tmp_path):
    command = ["train", "--dataset", films, "--out", tmp_path / "model", "--epochs", 1, "--seeds", 3, "--generator"]
    assert serve(*command, "item")[0] == 0 and len(Recommender.load(tmp_path / "model").sides) == 3
    assert "--seeds: of the item side, which --generator user leaves out" in told(serve(*command, "user"))


def test_the_same_seed_gives_the_same_file_and_another_gives_another(serve, films, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert serve("train", "--dataset", films, "--out", tmp_path / name, "--seed", seed)[0] == 0
    a, b, c = (Recommender.load(tmp_path / name).arrays for name in "abc")
    assert differing(a, b) == [] and {"W0", "M", "q0", "q1"} <= set(differing(a, c))


def test_train_half_writes_a_smaller_file(serve, films, kept, tmp_path):
    assert serve("train", "--dataset", films, "--out", tmp_path / "model", "--epochs", 10, "--half")[0] == 0
    half, whole = (Recommender.load(path) for path in (tmp_path / "model", kept["dual"]))
    assert 0 < np.abs(half.predict([1], [5]) - whole.predict([1], [5])).max() < 0.01
    assert (tmp_path / "model").stat().st_size < kept["dual"].stat().st_size


def test_train_on_another_scale_without_titles_or_profiles(serve, small, tmp_path):
    R, models = small.ratings, []
    for times in (1, 2):
        rows = "".join(f"{u},{i},{v * times:g}\n" for u, i, v in zip(R.users, R.items, R.values))
        write(tmp_path, {"x.csv": "user,item,rating\n" + rows})
        assert serve("train", "--dataset", tmp_path / "x.csv", "--out", tmp_path / "model")[0] == 0
        models.append(Recommender.load(tmp_path / "model"))
    assert (models[1].low, models[1].high, models[1].unit) == (2, 10, 2) and models[0].unit == 1
    assert models[1].predict([3, 4], [10, 2]) == pytest.approx(2 * models[0].predict([3, 4], [5, 1]), rel=1e-5)
    assert models[0].titles.tolist() == models[0].item_ids.tolist() and models[0].E_names == []
    for option in (["--age", 20], ["--gender", "F"], ["--occupation", "artist"]):
        assert f"{option[0]}: the model makes no use of it" in told(
            serve("recommend", "--model", tmp_path / "model", *option))


def test_train_replaces_an_old_file(serve, films, tmp_path):
    write(tmp_path, {"model": "old"})
    assert serve("train", "--dataset", films, "--out", tmp_path / "model", "--generator", "user")[0] == 0
    assert Recommender.load(tmp_path / "model").layers and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("path", ["folder", "no/x", "no/such/x"])
def test_a_model_that_can_never_be_written_is_told_before_training(serve, films, tmp_path, monkeypatch, path):
    for name in ("load", "train"):
        monkeypatch.setattr(experiments, name, lambda *_: pytest.fail("too late"))
    (tmp_path / "folder").mkdir()
    message = f"lfg.py: {tmp_path / path}: not a plain file in a folder that exists; give another name\n"
    assert told(serve("train", "--dataset", films, "--out", tmp_path / path)) == message
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error,code", [(KeyboardInterrupt, 130), (DataError("line\nbreak"), 2)])
def test_training_that_ends_early_leaves_the_old_file(serve, films, tmp_path, monkeypatch, error, code):
    def stop(*_):
        raise error

    monkeypatch.setattr(experiments, "train", stop)
    write(tmp_path, {"model": "old"})
    got, out, err = serve("train", "--dataset", films, "--out", tmp_path / "model")
    assert (got, out) == (code, "") and err.count("\n") == 1 and ("lfg.py: interrupted; " in err) == (code == 130)
    assert (tmp_path / "model").read_text() == "old" and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("arguments,message", [
    ([], "required"), (["other"], "other"), (["train"], "--out"), (["recommend"], "--model"),
    (["score", "--model", "m", "--out", "o"], "--ratings"), (["score", "--model", "m", "--ratings", "r"], "--out"),
    (["export", "--model", "m"], "--out"), (["train", "--out", "x", "--generator", "both"], "both"),
    (["train", "--out", "x", "--seed", "-1"], "is no whole number from "),
    (["train", "--out", "x", "--seeds", "0"], "is no whole number from "),
    (["train", "--out", "x", "--epochs", "1.5"], "is no whole number from "),
    (["train", "--out", "x", "--factors", "ten"], "is no whole number from "),
    (["train", "--out", "x", "--dataset", "nowhere"], "nowhere: no such file or folder"),
    (["recommend", "--model", "m", "-n", "0"], "is no whole number from "),
    (["recommend", "--model", "m", "-n", "²"], "is no whole number from "),
    (["recommend", "--model", "m", "--age", "-1"], "is no whole number from "),
    (["recommend", "--model", "m", "--age", ""], "is no whole number from "),
    (["score", "--model", "m", "--ratings", "r", "--out", "o", "-n", "x"], "is no whole number from "),
    (["recommend", "--model", "m"], "m: No such file or directory"),
    (["score", "--model", "m", "--ratings", "r", "--out", "o"], "m: No such file or directory"),
    (["export", "--model", "m", "--out", "o"], "m: No such file or directory")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_mistakes_of_serving_end_in_one_line_and_code_2(serve, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in told(serve(*arguments)) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["train", "recommend", "score", "export"])
def test_each_command_has_help(serve, command):
    code, out, err = serve(command, "--help")
    assert (code, err) == (0, "") and f"usage: lfg.py {command}" in out and command in serve("--help")[1]


def test_recommend_prints_a_table(serve, kept):
    code, out, err = serve("recommend", "--model", kept["dual"], "--rate", "Heat (1995)=2", "-n", 12)
    model = Recommender.load(kept["dual"])
    places, predicted = model.recommend([1], [2], n=12)
    header, *rows = out.splitlines()
    assert (code, err, len(rows), header.split()) == (0, "", 12, ["Rank", "Title", "Predicted"])
    assert len({len(row) for row in [header, *rows]}) == 1  # aligned
    assert [re.split("  +", row.strip()) for row in rows] == [
        [str(rank), TITLES[place], f"{round(float(rating), 3):.2f}"]
        for rank, (place, rating) in enumerate(zip(places, predicted), 1)]


def test_recommend_prints_json(serve, kept):
    code, out, err = serve("recommend", "--model", kept["dual"], "--rate", "id:54=5", "--rate", "Heat (1972)=1.5",
                           "-n", 100, "--json")
    model = Recommender.load(kept["dual"])
    places, predicted = model.recommend([4, 2], [5, 1.5], n=100)
    assert (code, err) == (0, "") and len(places) == 37     # but the two, and the one that nobody has rated
    assert json.loads(out) == [
        {"rank": rank, "id": str(place + 50), "title": TITLES[place], "rating": round(float(rating), 3)}
        for rank, (place, rating) in enumerate(zip(places, predicted), 1)] and "Misérables" in out


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_recommend_needs_no_ratings(serve, kept, kind):
    model = Recommender.load(kept[kind])
    assert best(serve("recommend", "--model", kept[kind], "--json")) == as_printed(model, *model.recommend([], []))


def test_recommend_says_when_nothing_is_left(serve, kept):
    rated = [text for n in range(40) for text in ("--rate", f"id:{n + 50}=3")]
    assert serve("recommend", "--model", kept["dual"], "--json", *rated) == (0, "[]\n", "")
    code, out, _ = serve("recommend", "--model", kept["dual"], *rated)
    assert (code, out.split()) == (0, ["Rank", "Title", "Predicted"])


PROFILES = [                                                # options, and the columns of E that they set, one each
    ({"age": 17}, ["age=1"]), ({"age": 18}, ["age=18"]), ({"age": 34}, ["age=25"]), ({"age": 99}, ["age=56"]),
    ({"gender": "f"}, ["gender=F"]), ({"occupation": "ARTIST"}, ["occupation=artist"]),
    ({"occupation": "none", "age": 0, "gender": "M"}, ["occupation=None", "age=1", "gender=M"])]


@pytest.mark.parametrize("kind", ["user", "dual"])
@pytest.mark.parametrize("given,ones", PROFILES, ids=[" ".join(ones) for _, ones in PROFILES])
def test_a_profile_changes_the_answer(serve, kept, kind, given, ones):
    model = Recommender.load(kept[kind])
    side = dict(zip(model.E_names, model.E_mean))           # what is not given stays at the mean
    for one in ones:
        side.update({name: float(name == one) for name in side if name.split("=")[0] == one.split("=")[0]})
    expected = model.recommend([1], [2], list(side.values()), 40)
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    command = ["recommend", "--model", kept[kind], "--rate", "id:51=2", "-n", 40, "--json"]
    found = best(serve(*command, *options))
    assert found == as_printed(model, *expected) and found != best(serve(*command))


def test_a_profile_leaves_the_model_as_it_is(kept):
    model = Recommender.load(kept["dual"])
    before = arrays(model)
    side = data.read_side(model, {"age": 25, "gender": "F", "occupation": None})
    assert side.shape == model.E_mean.shape and not np.array_equal(side, model.E_mean)
    assert differing(before, arrays(model)) == []


@pytest.mark.parametrize("option,value,known", [
    ("occupation", "king", "None, artist, doctor"), ("gender", "x", "F, M")])
def test_what_a_profile_may_be_is_told(serve, kept, option, value, known):
    err = told(serve("recommend", "--model", kept["dual"], f"--{option}", value))
    assert err == f"lfg.py: --{option} {value}: not known; give one of {known}\n"


@pytest.mark.parametrize("option", ["age", "gender", "occupation"])
def test_a_profile_is_nothing_to_a_model_of_items(serve, kept, option):
    assert f"--{option}: the model makes no use of it" in told(
        serve("recommend", "--model", kept["item"], f"--{option}", "1"))


@pytest.mark.parametrize("text,place", [
    ("Matrix, The (1999)", 0), ("The Matrix", 0), ("the matrix (1999)", 0), ("MATRIX,  THE", 0), ("Heat (1995)", 1),
    ("heat(1972)", 2), ("Il Postino", 3), ("the postman", 3), ("Postino, Il (1994)", 3), ("Les misérables", 5),
    ("Misérables, Les", 5), (" Toy Story ", 6), ("54", 7), ("id:54", 4), ("id: 54 ", 4), ("51", 1), ("Film 9", 9),
    ("L'Été", 4), ("été, l'", 4)])
def test_items_are_found_by_title_or_id(serve, kept, text, place):
    model = Recommender.load(kept["dual"])
    assert data.find_item(model, text) == place
    found = best(serve("recommend", "--model", kept["dual"], "--rate", f"{text}=4.5", "--json"))
    assert found == as_printed(model, *model.recommend([place], [4.5]))


@pytest.mark.parametrize("text,said", [
    ("Heat", "several items are called 'Heat'; add the year, or write id:ID: Heat (1995) (id:51), Heat (1972) (id:52)"),
    ("Toy Stori", "no item is called 'Toy Stori'; the nearest are: Toy Story (1995) (id:56)"),
    ("The Matrix (1998)", "no item is called 'The Matrix (1998)'; the nearest are: Matrix, The (1999) (id:50)"),
    ("id:49", "id:49 is no item's id"), ("49", "no item is called '49'"), ("id:", "id: is no item's id"),
    ("id:Heat", "id:Heat is no item's id"), ("qqqq", "no item is called 'qqqq'; nothing is near; give another"),
    (" ", "no item is called ''")])
def test_what_is_not_one_item_is_told_with_candidates(serve, kept, text, said):
    err = told(serve("recommend", "--model", kept["dual"], "--rate", f"{text}=4"))
    assert err.startswith(f"lfg.py: --rate {' '.join(f'{text}=4'.split())}: {said}")


@pytest.mark.parametrize("text,said", [
    ("Heat (1995)=6", "'6' is no rating from 1 to 5"), ("Heat (1995)=0.9", "'0.9' is no rating from 1 to 5"),
    ("Heat (1995)=good", "'good' is no rating"), ("Heat (1995)=nan", "'nan' is no rating"),
    ("Heat (1995)=", "'' is no rating"), ("Heat (1995)", "no title or no rating; write TITLE=RATING"),
    ("=4", "no title or no rating; write TITLE=RATING")])
def test_what_is_no_rating_is_told(serve, kept, text, said):
    assert f"--rate {text}: {said}" in told(serve("recommend", "--model", kept["dual"], "--rate", text))


def test_an_item_is_rated_once(serve, kept, tmp_path):
    path = write(tmp_path, {"r.csv": "Toy Story,3\nThe Matrix,3\n"}) / "r.csv"
    command = ["recommend", "--model", kept["dual"], "--rate", "The Matrix=5"]
    assert "--rate id:50=4: rated twice, first in --rate The Matrix=5" in told(serve(*command, "--rate", "id:50=4"))
    assert f"{path}, line 2: rated twice, first in --rate" in told(serve(*command, "--ratings", path))


@pytest.mark.parametrize("text,places", [
    ("title,rating\nHeat (1995),4\n\"Matrix, The (1999)\",2\n", [1, 0]), ("The Matrix,4\nheat (1972),2\n", [0, 2]),
    ("\ufefftitle,rating\r\nToy Story,4\r\n\r\n id:51 , 2 \r\n", [6, 1]), ("movieId,rating\n54,4\n57,2\n", [4, 7]),
    ("item_id,Rating\n54,4\n57,2", [4, 7]), ("54,4\n55,2\n", [7, 5]), ("Movie,rating \n54,4\n50,2\n", [4, 0]),
    ("Les Misérables,4\nid:59,2\n", [5, 9]), ("title,rating\n", []), ("", [])])
def test_ratings_come_from_a_csv_or_standard_input(serve, kept, tmp_path, text, places):
    model = Recommender.load(kept["dual"])
    path = write(tmp_path, {"r.csv": text}) / "r.csv"
    expected = as_printed(model, *model.recommend(places, [4, 2][:len(places)]))
    assert best(serve("recommend", "--model", kept["dual"], "--ratings", path, "--json")) == expected
    stdin = text.lstrip("\ufeff")
    assert best(serve("recommend", "--model", kept["dual"], "--ratings", "-", "--json", stdin=stdin)) == expected
    more = as_printed(model, *model.recommend([20, *places], [1, 4, 2][:len(places) + 1]))
    assert best(serve("recommend", "--model", kept["dual"], "--ratings", path, "--rate", "id:70=1", "--json")) == more


@pytest.mark.parametrize("text,said", [
    ("Heat (1995),4\nMatrix, The (1999),4\n", ", line 2: 3 fields; write a title or id:ID and a rating"),
    ("title,rating\n\nHeat (1995)\n", ", line 3: 1 fields; write"), ("Heat,4\n", ", line 1: several items are called"),
    ("title,rating\nHeat (1995),6\n", ", line 2: '6' is no rating from 1 to 5"),
    ("movieId,rating\n50,4\n49,2\n", ", line 3: id:49 is no item's id"),
    ('"Heat,4\n', ", line 1: unexpected end of data"),
    (b"Heat (1995),4\n\xe9,4\n", ", line 2: not UTF-8 text; save it as UTF-8"),
    (None, ": No such file or directory; name a"),
    ("folder", ": Is a directory; name a CSV file")])
def test_ratings_that_cannot_be_read_are_told_with_file_and_line(serve, kept, tmp_path, text, said):
    path = tmp_path / "r.csv"
    if text == "folder":
        path.mkdir()
    elif text:
        write(tmp_path, {"r.csv": text})
    assert f"lfg.py: {path}{said}" in told(serve("recommend", "--model", kept["dual"], "--ratings", path))


def test_the_real_command_line_and_a_reader_that_leaves(kept):
    command = [sys.executable, Path(experiments.__file__).with_name("lfg.py"), "recommend", "--model", kept["dual"]]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_serving_needs_numpy_alone(kept):
    code = ("import sys; sys.modules.update(pandas=None, tqdm=None, data=None, experiments=None)\n"
            f"from lfg import LFG; print(len(LFG.load({str(kept['dual'])!r}).recommend([1], [5])[0]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(experiments.__file__).parent,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


# Many users at once: lfg.py score


SCORED = ("movieId,timestamp,userId,rating\n51,0,10,4\n50,0,10,5\n59,x,9,1.5\n\n"
          '"60",,"a, ""b""",3\n61,,"a, ""b""",2\n62,,"a, ""b""",1\n70,0,1,5\n')
USERS = {"10": ([1, 0], [4, 5]), "9": ([9], [1.5]), 'a, "b"': ([10, 11, 12], [3, 2, 1]), "1": ([20], [5])}


@pytest.mark.parametrize("kind,n", [("user", 3), ("item", 100), ("dual", None)])
@pytest.mark.parametrize("stdin", [False, True])
def test_score_gives_each_user_what_recommend_gives(serve, kept, tmp_path, kind, n, stdin):
    model, path = Recommender.load(kept[kind]), tmp_path / "out.csv"
    source = "-" if stdin else write(tmp_path / "in", {"r.csv": SCORED}) / "r.csv"
    assert serve("score", "--model", kept[kind], "--ratings", source, "--out", path, *(["-n", n] if n else []),
                 stdin=SCORED) == (0, "", "")
    header, *rows = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    assert header == ["user", "item", "rating"] and path.read_bytes().count(b"\r") == 0
    assert list(dict.fromkeys(user for user, *_ in rows)) == list(USERS)   # in the order of the file
    for user, (items, ratings) in USERS.items():
        places, predicted = model.recommend(items, ratings, n=n or 10)
        own = [row for row in rows if row[0] == user]
        assert [item for _, item, _ in own] == model.item_ids[places].tolist()
        assert [float(rating) for *_, rating in own] == pytest.approx(predicted.tolist(), abs=0.51e-4)


def test_score_of_no_users_is_a_header(serve, kept, tmp_path):
    path = write(tmp_path, {"r.csv": "\ufeffuser_id,item_id,rating\r\n"}) / "r.csv"
    assert serve("score", "--model", kept["dual"], "--ratings", path, "--out", tmp_path / "o") == (0, "", "")
    assert (tmp_path / "o").read_text() == "user,item,rating\n"


MISTAKES = [
    ("u,i,r\n", ", line 1: the first line must name"), ("", ", line 1: the first line must name"),
    ("userId,movieId\n", ", line 1: the first line must name rating once"),
    ("user;item;rating\n1;50;4,5\n", ", line 1: no commas in 'user;item;rating'; save it with a comma between fields"),
    ("user,item,movieId,rating\n", ", line 1: the first line must name item once"),
    ("user,item,rating\n1,50,5\n2,50,5\n1,51,5\n", ", line 4: user '1' was there before; sort by user"),
    ("user,item,rating\n1,50,5\n\n2,49,5\n", ", line 4: item '49' is not in the model"),
    ("user,item,rating\n1,50,5\n1,51,5\n1,50,5\n", ", line 4: item '50' is rated twice by user '1'"),
    ("user,item,rating\n1,50,5.5\n", ", line 2: '5.5' is no rating from 1 to 5"),
    ("user,item,rating\n1,50,5\n2,50,\n", ", line 3: '' is no rating from 1 to 5"),
    ("user,item,rating\n1,50,nan\n", ", line 2: 'nan' is no rating from 1 to 5"),
    ("user,item,rating\n1,50,1e39\n", ", line 2: '1e39' is no rating from 1 to 5"),
    ("user,item,rating\n1,50,5\n2,50\n", ", line 3: 2 fields where 3 are expected"),
    ("user,item,rating\n1,50,5,0\n", ", line 2: 4 fields where 3 are expected"),
    ('user,item,rating\n1,50,5\n2,"50,4\n', ", line 3: unexpected end of data"),
    (b"user,item,rating\n1,50,5\n\xe9,50,5\n", ", line 3: not UTF-8 text; save it as UTF-8"),
    (None, ": No such file or directory; name a CSV file")]


@pytest.mark.parametrize("old", [False, True], ids=["new file", "old file"])
@pytest.mark.parametrize("text,said", MISTAKES, ids=[said for _, said in MISTAKES])
def test_score_refuses_with_the_line_and_writes_nothing(serve, kept, tmp_path, text, said, old):
    path, out = tmp_path / "r.csv", tmp_path / "out"
    write(tmp_path, {} if text is None else {"r.csv": text})
    write(out, {"top.csv": "old"} if old else {})
    err = told(serve("score", "--model", kept["dual"], "--ratings", path, "--out", out / "top.csv"))
    assert err.startswith(f"lfg.py: {path}{said}")
    assert {name: (out / name).read_text() for name in os.listdir(out)} == ({"top.csv": "old"} if old else {})


def test_score_refuses_an_output_in_no_folder_before_it_reads(serve, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "scored", lambda *_: pytest.fail("too late"))
    err = told(serve("score", "--model", kept["dual"], "--ratings", "-", "--out", tmp_path / "no" / "x"))
    assert "not a plain file in a folder that exists" in err and os.listdir(tmp_path) == []


def test_users_are_read_and_answered_one_after_another(kept, monkeypatch):
    model, read = Recommender.load(kept["dual"]), []

    def lines():
        for line in ("user,item,rating", "a,50,5", "a,51,3", "b,50,1", "b,52,2", "c,51,1"):
            read.append(line)
            yield line + "\n"

    for source in (data.users_of(model, "-"), data.scored(model, "-", 1)):
        read.clear()
        monkeypatch.setattr(data, "_open_text", lambda path: nullcontext(lines()))
        if source.__name__ == "scored":
            assert (next(source), read) == (b"user,item,rating\n", [])
        first, seen = next(source), len(read)
        second = next(source)
        assert (seen, len(read)) == (4, 6)                  # a user ends where the next one begins
        if source.__name__ == "users_of":
            assert (first, second, *source) == (("a", [0, 1], [5, 3]), ("b", [0, 2], [1, 2]), ("c", [1], [1]))


# For another language: lfg.py export


def ported(folder):
    """A function of (items, ratings, side) to (factors, bias, solved, predictions): the README's formula, in lists."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    numbers = array("f", (folder / "weights.bin").read_bytes())
    if sys.byteorder == "big":
        numbers.byteswap()
    a = {}
    for one in manifest["arrays"]:
        flat = numbers[one["offset"] // 4:one["offset"] // 4 + math.prod(one["shape"])].tolist()
        wide = one["shape"][1] if len(one["shape"]) == 2 else 0
        a[one["name"]] = [flat[n:n + wide] for n in range(0, len(flat), wide)] if wide else flat
    unit, slope, weights, layers = (manifest[name] for name in ("unit", "slope", "weights", "layers"))

    def dot(x, y):
        return sum(p * q for p, q in zip(x, y))

    def times(x, W):
        return [dot(x, column) for column in zip(*W)]

    def solve(A, b):
        """Gaussian elimination with pivots."""
        rows = [[*row, right] for row, right in zip(A, b)]
        for n in range(len(rows)):
            pivot = max(range(n, len(rows)), key=lambda r: abs(rows[r][n]))
            rows[n], rows[pivot] = rows[pivot], rows[n]
            for r in range(n + 1, len(rows)):
                factor = rows[r][n] / rows[n][n]
                rows[r] = [p - factor * q for p, q in zip(rows[r], rows[n])]
        x = [0.0] * len(rows)
        for n in reversed(range(len(rows))):
            x[n] = (rows[n][-1] - dot(rows[n][n + 1:-1], x[n + 1:])) / rows[n][n]
        return x

    def generate(items, values, side):
        h = [b + e for b, e in zip(a["b"], times(side, a["W_E"]) if side else [0] * len(a["b"]))]
        for i, v in zip(items, values):
            h = [x + (v * H + one) / math.sqrt(len(items)) for x, H, one in zip(h, a["W_H"][i], a["W_1"][i])]
        for n in range(1, layers + 1):
            h = times([x if x > 0 else slope * x for x in h], a[f"W{n}"])
            h = [x + b for x, b in zip(h, a[f"b{n}"])]
        return [math.tanh(x) for x in h]

    def ridge(items, values, q, mean):
        A, k = [q[i] for i in items], len(q[0]) - 1
        D = [manifest["ridge"][0]] * k + [manifest["ridge"][1]]
        system = [[dot([x / d for x, d in zip(one, D)], other) + (m == n) for m, other in enumerate(A)]
                  for n, one in enumerate(A)]
        y = solve(system, [v - mean[i] for i, v in zip(items, values)])
        return [dot(y, [row[c] for row in A]) / D[c] for c in range(k + 1)]

    def answer(items, ratings, side):
        values, seeds = [r / unit for r in ratings], range(manifest["seeds"])
        w = weights[0] + (weights[1] - weights[0]) * 5 / (5 + len(items))
        g = generate(items, values, side) if layers else [0.0]
        solved = [ridge(items, values, a[f"q{s}"], a[f"mean{s}"]) for s in seeds]
        predicted = []
        for i in range(len(manifest["items"])):
            by_network = a["base"][i] + dot(a["M1"][i], g) if layers else 0
            by_solve = sum(a[f"mean{s}"][i] + dot(a[f"q{s}"][i], solved[s]) for s in seeds) / max(1, len(seeds))
            predicted.append(unit * (w * by_network + (1 - w) * by_solve))
        return g[:-1], g[-1], solved, predicted
    return answer


@pytest.mark.parametrize("kind,unit,deep", [("user", 1, False), ("user", 2.25, True), ("item", 2.25, False),
                                            ("dual", 1, False), ("dual", 2.25, True)])
def test_a_port_without_numpy_proves_itself_on_the_vectors(served, tmp_path, kind, unit, deep):
    model = served(kind, unit, deep)
    data.export_model(model, tmp_path)
    answer, vectors = ported(tmp_path), json.loads((tmp_path / "vectors.json").read_text())
    lengths = [len(one["items"]) for one in vectors]
    assert len(vectors) == 20 and lengths[:3] == [0, 1, 2] and len(set(lengths)) > 8
    for one in vectors:
        factors, bias, solved, predicted = answer(one["items"], one["ratings"], one["side"])
        assert factors == pytest.approx(one["factors"], abs=1e-4) and bias == pytest.approx(one["bias"], abs=1e-4)
        assert (len(factors), len(solved)) == (0 if kind == "item" else 3, 0 if kind == "user" else 2)
        assert np.array(solved) == pytest.approx(np.array(one["solved"]), abs=1e-4)
        assert [[i, predicted[i]] for i, _ in one["predictions"]] == [
            [i, pytest.approx(p, abs=1e-4)] for i, p in one["predictions"]] and len(one["predictions"]) == 5
        assert predicted == pytest.approx(model.predict(one["items"], one["ratings"], one["side"]), abs=1e-4)
    assert np.ptp([p for one in vectors for _, p in one["predictions"]]) > 0.1


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_the_manifest_covers_the_weights_and_tells_the_rest(kept, serve, tmp_path, kind):
    assert serve("export", "--model", kept[kind], "--out", tmp_path / "new") == (0, "", "")
    assert sorted(os.listdir(tmp_path / "new")) == ["manifest.json", "vectors.json", "weights.bin"]
    assert os.listdir(tmp_path) == ["new"]
    model, raw = Recommender.load(kept[kind]), (tmp_path / "new" / "weights.bin").read_bytes()
    manifest, end, found = json.loads((tmp_path / "new" / "manifest.json").read_text(encoding="utf-8")), 0, {}
    for one in manifest["arrays"]:
        assert one["offset"] == end and one["meaning"]
        end += 4 * math.prod(one["shape"])
        found[one["name"]] = np.frombuffer(raw[one["offset"]:end], "<f4").reshape(one["shape"])
    assert end == len(raw) and manifest["file"] == "weights.bin" and manifest["format"] == 1
    expected = {"E_mean": model.E_mean}
    if kind != "item":
        (W1, b1), = model.layers
        expected.update(W_E=model.W_E, b=model.b0, W_H=model.W_H, W_1=model.W_1, W1=W1, b1=b1, M1=model.M1,
                        base=model.base)
    for n, (q, mean) in enumerate(model.sides):
        expected.update({f"q{n}": q, f"mean{n}": mean})
    assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)
    assert (manifest["layers"], manifest["seeds"]) == {"user": (1, 0), "item": (0, 1), "dual": (1, 2)}[kind]
    assert (manifest["scale"], manifest["unit"], manifest["slope"], manifest["ridge"]) == ([1, 5], 1, 0.01, [250, 6])
    assert manifest["weights"] == model.arrays["weights"].tolist() and manifest["E_names"] == model.E_names
    assert manifest["items"] == [{"id": str(n + 50), "title": title, "rated": n != 8} for n, title in enumerate(TITLES)]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder) if (folder / name).is_file()}


@pytest.mark.parametrize("kind", ["full", "file", "no/such"])
def test_export_refuses_what_is_there(serve, kept, tmp_path, kind):
    write(tmp_path / "full", {"x": "old"})
    write(tmp_path, {"file": "old"})
    err = told(serve("export", "--model", kept["dual"], "--out", tmp_path / kind))
    said = "No such file or directory; name a folder" if kind == "no/such" else "exists and is not an empty folder"
    assert err.startswith(f"lfg.py: {tmp_path / kind}: {said}")
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]
    assert contents(tmp_path / "full") == {"x": b"old"} and contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("name", ["new", "new/", "empty"])
def test_export_takes_a_new_folder_or_an_empty_one(serve, kept, tmp_path, name):
    (tmp_path / "empty").mkdir()
    for n in range(2):                                      # the second time it is full
        code, *_ = serve("export", "--model", kept["user"], "--out", f"{tmp_path}/{name}")
        assert code == 2 * n and len(contents(tmp_path / name)) == 3
    assert sorted(os.listdir(tmp_path)) == sorted({"empty", name.strip("/")})


@pytest.mark.parametrize("error,code", [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize("name", ["new", "empty"])
@pytest.mark.parametrize("where", ["json.dump", "os.replace"])             # in the middle and at the end
def test_an_export_that_fails_leaves_nothing(serve, kept, tmp_path, monkeypatch, name, error, code, where):
    def stop(*_, **__):
        raise error

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(where, stop)
    got, out, err = serve("export", "--model", kept["dual"], "--out", tmp_path / name)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert os.listdir(tmp_path) == ["empty"] and os.listdir(tmp_path / "empty") == []


# What a new user costs: experiments.py --test speed


def test_speed_is_measured_in_a_process_with_one_thread(cli, monkeypatch):
    calls, codes = [], [0, 2, -9]
    monkeypatch.delenv("LFG_SPEED", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    monkeypatch.setattr(experiments, "speed", lambda *_: pytest.fail("in this process"))

    class Child:
        def __init__(self, command, env):
            calls.append((command, env))

        __enter__, __exit__, wait = lambda self: self, lambda *_: None, lambda self: codes[len(calls) - 1]

    monkeypatch.setattr(experiments.subprocess, "Popen", Child)
    asked = ["--dataset", "synthetic", "--test", "speed", "--quiet"]
    assert [cli(*asked)[0] for _ in codes] == [0, 2, 137]   # killed by signal 9, as a shell has it
    for command, env in calls:
        assert command == [sys.executable, experiments.__file__, *asked] and env["LFG_SPEED"] == "1"
        assert {env[f"{name}_NUM_THREADS"] for name in ("OPENBLAS", "OMP", "MKL")} == {"1"} and env["PATH"]


def test_speed_is_a_row_a_way_to_answer(cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("LFG_SPEED", "1")
    trained = record(experiments, "train", monkeypatch.setattr)
    code, out, err = cli("--dataset", "synthetic", "--test", "speed", "--seed", 7, "--json", tmp_path / "json")
    table, = json.loads((tmp_path / "json").read_text())
    new, ways = 12, ["LFG, dense forward pass", "LFG", "LFG-item", "LFG-dual", "BiasSVD fold-in", "Retraining BiasSVD",
                     "Retraining SVD"]
    assert (code, err) == (0, "") and set(table) == {
        "table", "dataset", "test", "seed", "rows", "training", "retraining_to_lfg", "peak_mb", "seeds", "file_mb"}
    assert [table[key] for key in ("table", "dataset", "test", "seed", "seeds")] == [None, "synthetic", "speed", 7, 2]
    assert [(row["what"], row["calls"]) for row in table["rows"]] == list(zip(ways, [new] * 5 + [3] * 2))
    for row in table["rows"]:
        assert 0 < row["median"] <= row["p99"] < 60 and set(row) == {"what", "calls", "median", "p99", "times_dense"}
        assert row["times_dense"] == pytest.approx(row["median"] / table["rows"][0]["median"])
    assert table["retraining_to_lfg"] == pytest.approx(table["rows"][5]["median"] / table["rows"][1]["median"])
    assert [(t["model"], t["epochs"]) for t in table["training"]] == [
        (name, 2) for name in ("BiasSVD", "SVD", "LFG", "LFG-item")]
    assert all(0 < t["seconds"] < 60 and t["seconds_an_epoch"] == t["seconds"] / 2 for t in table["training"])
    assert 0 < table["file_mb"] < 1 and 10 < table["peak_mb"] < 100_000
    assert [row[0] for row in rows_of(out) if row[0][0] != "-"] == [
        "What", *ways, "Model", "BiasSVD", "SVD", "LFG", "LFG-item"]
    sizes = [len(ratings) for (name, _, ratings, *_), _ in trained]        # LFG-item is of two seeds
    assert len(sizes) == 5 + 6 and set(sizes[:5]) == {sizes[0]} and min(sizes[5:]) > sizes[0]


def test_what_speed_measures_gives_the_answers_of_the_experiments(cli, small):
    R = parts_of(small, "realtime").train
    settings, view = {**experiments.SETTINGS["ml-100k", "coldstart"]}, experiments.view_of(small, "realtime")
    needed = [("BiasSVD", 7)] + experiments.needs("LFG-dual", settings, 7)
    trained = experiments.train_all(needed, settings, R, "x", view, BAR)
    models = experiments.served(trained, settings, small, R.with_values(2.25 * R.values), 2.25)
    items, ratings, sides = new_users(unit=2.25)
    profile, target = as_ratings(items, ratings, 2.25)
    (lfg_, _), = trained["LFG"]
    (bias, _), = trained["BiasSVD"]
    by_items = [experiments.folding(*model.generate(R.T, small.F), model.mu, R, **settings["LFG-item fold-in"])
                for model, _ in trained["LFG-item"]]
    expected = {
        "LFG": lfg_.predict(target.users, target.items, profile, sides), "LFG-item": by_items[0](profile, target),
        "LFG-dual": experiments.joined(lambda p, t: lfg_.predict(t.users, t.items, p, sides), by_items, profile, target,
                                       **settings["LFG-dual"]),
        "BiasSVD fold-in": experiments.folding(bias.q, bias.bi, bias.mu, R, l2=3, l2_bias=6)(profile, target)}
    assert models.keys() == expected.keys()
    for what, model in models.items():
        assert 2.25 * expected[what].reshape(-1, 40) == pytest.approx(model.predict(items, ratings, sides), abs=1e-4)
    dense = experiments.dense_pass(lfg_, 2.25)
    for user, row in zip(zip(items, ratings, sides), models["LFG"].predict(items, ratings, sides)):
        assert dense(*user) == pytest.approx(row, abs=1e-5)


def test_every_user_is_timed_and_the_first_answered_once_before():
    asked = []
    seconds = experiments.timed(lambda *user: asked.append(user), [(1, 2), (3, 4), (5, 6)], warm=2)
    assert asked == [(1, 2), (3, 4), (1, 2), (3, 4), (5, 6)] and len(seconds) == 3 and min(seconds) > 0


def test_a_model_that_cannot_fold_in_is_trained_with_one_new_user(small):
    train, profile, target = parts_of(small, "realtime")
    user = target.users[0]
    more = experiments.with_user(train, profile, user)
    assert more.shape == train.shape and pairs(more) == pairs(train) | pairs(profile.where(profile.users == user))
    assert more.counts[user] == profile.counts[user] > 0 == train.counts[user]


def test_spans_have_three_digits_and_a_unit():
    assert [experiments.span(s) for s in (8.13e-8, 8.1234e-5, 0.0012345, 0.25, 1, 1234.5)] == [
        "0.0813 µs", "81.2 µs", "1.23 ms", "250 ms", "1 s", "1230 s"]


# Data


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
    assert d.name == "mine.csv" and d.item_ids.tolist() == ["NA", "a,\nb"] == d.titles and d.F.shape == (2, 0)
    assert d.ratings.items.tolist() == [0, 1] and d.ratings.values.tolist() == [1, 2]


def test_atomic_without_side_files_or_ages(tmp_path):
    d = load(write(tmp_path / "a", {"x.inter": ATOMIC["x.inter"]}))
    assert d.E.shape == (3, 0) and d.F.shape == (2, 0) and d.titles == ["9", "10"]
    d = load(write(tmp_path / "b", dict(ATOMIC, **{"x.user": ATOMIC["x.user"].replace("17", "young"),
                                                   "x.item": "item_id:token\n9\n10\n"})))
    assert d.E[0].sum() == 2                                # a token may be text: no age, but the rest
    assert d.F.shape == (2, 0) and d.titles == ["9", "10"]


@pytest.mark.parametrize("title,year,shown,decade", [
    ("Babe", "1995", "Babe (1995)", 1990), ("Babe (1996)", "1985", "Babe (1996)", 1980), ("Babe", "", "Babe", None),
    ("Babe (1979)", "unkonwn", "Babe (1979)", 1970), ("2010 (2001) (1968)", "", "2010 (2001) (1968)", 1960),
    ("2001", "", "2001", None), ("", "1995", "10", 1990)])
def test_titles_and_years(tmp_path, title, year, shown, decade):
    header = ATOMIC["x.item"].partition("\n")[0]
    d = load(write(tmp_path, {**ATOMIC, "x.item": f"{header}\n10\t{title}\t{year}\tWar\n9\tHeat\t\tCrime\n"}))
    assert d.titles == ["Heat", shown] and columns(d.F, d.F_names) == {
        "genre=Crime": [1, 0], "genre=War": [0, 1], **({f"decade={decade}": [0, 1]} if decade else {})}


def test_a_user_rates_any_item_where_items_outnumber_users(tmp_path):
    rows = [f"{u},{i},{i}" for u in (1, 2, 3) for i in range(9)]
    d = load(write(tmp_path / "a", {"ratings.csv": "\n".join(["userId, movieId , rating", *rows])}))       # with blanks
    assert d.ratings.shape == (3, 9) and len(pairs(d.ratings)) == 27
    message = fail(write(tmp_path / "b", {"ratings.csv": "\n".join(["userId,movieId,rating", *rows, "2,8,1"])}))
    assert "ratings.csv, line 29: user '2' rates item '8' twice, first in line 19; correct" in message


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
    (ATOMIC, "x.inter", "2\t10", b"2\t\xff", "x.inter, line 2: not UTF-8 text"),
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
    (CSV, "ratings.csv", "2,10", '"2"3,10', "ratings.csv, line 2: a quote that is not closed or not at the start or"),
    (CSV, "ratings.csv", "2,10", '"2" ,10', "ratings.csv, line 2: a quote that is not closed or not at the start or"),
    (CSV, "ratings.csv", CSV["ratings.csv"], "userId;movieId;rating\n1;2;3,5\n", "ratings.csv, line 1: no commas in"),
    (CSV, "movies.csv", CSV["movies.csv"], "movieId\ttitle\n1\t2\n", "movies.csv, line 1: no commas in 'movieId"),
    (ATOMIC, "x.inter", "2\t10", b"2\t\xff", "x.inter, line 2: not UTF-8 text; save it as UTF-8"),
    (CSV, "ratings.csv", "3.5", "1e10", "ratings.csv, line 2: rating '1e10' is not a finite number below 1e10"),
    (CSV, "ratings.csv", "3.5", "x" * 5000, "ratings.csv, line 2: rating '" + "x" * 100 + "' is not a finite number"),
    (CSV, "ratings.csv", "1,9", "\ufeff1,9", "ratings.csv, line 3: a byte order mark inside the file"),
    (ML_100K, "u.item", "|url|1", "|url|2", "u.item, line 3: a genre that is neither 0 nor 1"),
    (ML_1M, "movies.dat", "Heat", "He\tat", "movies.dat, line 2: a tab, where :: separates"),
]


@pytest.mark.parametrize("files,name,old,new,message", ERRORS, ids=[e[-1][:60] for e in ERRORS])
def test_errors_name_file_and_line(tmp_path, files, name, old, new, message):
    raw, old, new = (encoded(name, text) for text in (files[name], old, new))
    assert old in raw
    assert f"{os.sep}{message}" in fail(write(tmp_path, dict(files, **{name: raw.replace(old, new, 1)})))


def test_errors_of_places(tmp_path):
    assert "nowhere: no such file or folder" in fail(tmp_path / "nowhere")
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


def test_first_ratings_are_nested_and_fixed_by_the_seed(R):
    asked = (0, 3), (2, 3), (5, 3), (5, 3), (5, 4)
    nothing, two, five, again, other = (first_ratings(R, n, seed) for n, seed in asked)
    assert len(nothing) == 0 and pairs(two) < pairs(five) < pairs(R)
    assert pairs(again) == pairs(five) != pairs(other) and nothing.shape == other.shape == R.shape
    for n, first in ((2, two), (5, five), (5, other)):
        assert np.array_equal(first.counts, np.minimum(R.counts, n))       # all that a user with fewer has
    assert R.counts.min() < 5 < R.counts.max() and pairs(first_ratings(R, 99, 3)) == pairs(R)


# Fetching


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)


def fake_pip(monkeypatch, files=None, top="recbole/dataset_example/ml-100k"):
    def run(command, env, **_):
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"] and command[-1] == "recbole==1.2.1"
        assert env == {**os.environ, "TMPDIR": command[command.index("--dest") + 1]}
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


def test_no_download_is_waited_for_for_ever(tmp_path, monkeypatch):
    waited = []

    def refuse(*_, timeout=math.inf):
        waited.append(timeout)
        raise urllib.error.URLError("no answer")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    assert "no answer" in fail("ml-1m", tmp_path) and 0 < waited[0] < 60


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
    d = load("synthetic:{}x{}x{}".format(*shape), seed=1)
    assert pairs(d.ratings) == pairs(a.ratings) and np.array_equal(d.ratings.values, a.ratings.values)
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


@pytest.mark.skipif("LFG_DATA" not in os.environ, reason="LFG_DATA does not name a folder with ml-100k")
def test_real_ml_100k_new_item_folds():
    d = load("ml-100k", os.environ["LFG_DATA"])
    R, new = experiments.view_of(d, "newitem").ratings, []
    for fold in range(1, 6):
        (train, profile, target), = experiments.cases_of(R, "newitem", fold, 0)
        cells = np.concatenate([part.items * 1682 + part.users for part in (train, profile, target)])
        assert np.array_equal(np.sort(cells), np.sort(d.ratings.users * 1682 + d.ratings.items))
        assert not (train.counts > 0)[target.users].any() and 17_000 < len(profile) + len(target) < 23_000
        new += np.unique(target.users).tolist()
    assert sorted(new) == list(range(1682))


def test_output_that_cannot_be_written_ends_in_one_line(served, tmp_path, capsys, monkeypatch):
    served().save(tmp_path / "model")

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert lfg_main(["recommend", "--model", str(tmp_path / "model")]) == 2
    sys.stdout.close()                                        # the null device
    assert capsys.readouterr().err == "lfg.py: No space left on device; make room or redirect the output\n"


def test_a_terminal_without_greek_shows_question_marks(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert data.guarded("x", lambda: print("\u03bc + bi"), "") == 0 and stdout.buffer.getvalue() == b"? + bi\n"


def test_an_output_that_is_its_own_input_is_refused(served, tmp_path, capsys):
    served().save(tmp_path / "model")
    source = tmp_path / "new.csv"
    source.write_text("user,item,rating\n")
    for command in (["score", "--model", str(tmp_path / "model"), "--ratings", str(source)],
                    ["train", "--dataset", str(source)]):
        assert lfg_main([*command, "--out", str(source)]) == 2
        assert source.read_text() == "user,item,rating\n" and capsys.readouterr().err.count("\n") == 1


# Stopped at any moment: there is the old file or the new one


@pytest.fixture(scope="session", autouse=True)
def heard_signals():
    """Processes that tests start hear all signals, also where this one has been told to ignore some, as by nohup."""
    with ExitStack() as back:
        for number in data.SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:
                back.callback(signal.signal, number, signal.SIG_IGN)
                signal.signal(number, signal.SIG_DFL)
        yield


CALLS = {"open", "write", "writelines", "flush", "close", "__exit__", "mkdir", "replace", "rename", "remove", "unlink",
         "rmdir"}                                           # functions in C through which files change


def after_calls(n, act):
    """Calls act before or after a call of CALLS, from now on: the n-th such moment. Returns all that have passed."""
    moments = []

    def profile(frame, event, called):
        if event in ("c_call", "c_return") and called.__name__ in CALLS:
            moments.append(called.__name__)
            if len(moments) == n:
                act()
    sys.setprofile(profile)
    return moments


def in_a_fork(run, err, n=0, number=0):
    """Runs a command in a fork, which sends itself a signal at its n-th moment; its exit code, or minus its signal."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)                                    # a command that hangs fails
        sys.stderr = open(err, "w", encoding="utf-8")
        try:
            moments = after_calls(n, lambda: os.kill(os.getpid(), number))
            data.command(run)
        except SystemExit as end:
            sys.setprofile(None)
            print("" if n else len(moments), end="", file=sys.stderr, flush=True)
            os._exit(end.code)
        except BaseException:
            sys.setprofile(None)
            print(traceback.format_exc(), file=sys.stderr, flush=True)
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command_to_stop(kind, given, out):
    """A function that runs a command which writes to out; given: what it reads, by name."""
    patch = pytest.MonkeyPatch()
    patch.setattr(experiments, "SETTINGS", {key: tiny(s) for key, s in experiments.SETTINGS.items()})
    if kind in ("zip", "wheel"):
        source = Path(given["zip"])
        if kind == "zip":
            patch.setattr(data, "BASE_URL", source.parent.as_uri() + "/")
            patch.setitem(data.MD5, "ml-100k", hashlib.md5(source.read_bytes()).hexdigest())
        else:
            no_network(patch)
            fake_pip(patch, WHEEL)
            body = WHEEL["ml-100k.inter"].split("\n", 1)[1].encode()
            patch.setattr(data, "WHEEL_MD5", hashlib.md5(body).hexdigest())
        return lambda: data.guarded("data", lambda: load("ml-100k", Path(out).parent) and 0, "interrupted")
    arguments = {"train": ["--dataset", given["films"], "--generator", "user", "--quiet"],
                 "score": ["--model", given["model"], "--ratings", given["csv"]],
                 "export": ["--model", given["model"]],
                 "--json": ["--dataset", given["films"], "--folds", "1", "--models", "svd", "--quiet", "--json", out]}
    if kind == "--json":
        return lambda: experiments.main(arguments[kind])
    return lambda: lfg_main([kind, *arguments[kind], "--out", out])


def content_of(path):
    """Of a file, or of the files of a folder by name; seconds, which no two runs share, are left out of JSON."""
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in os.listdir(path)}
    return re.sub(rb'"seconds": {[^}]*}', b'"seconds": {}', path.read_bytes()) if path.exists() else None


def stop_everywhere(kind, given, folder, most=30):
    """Kills a command at its moments, and stops it there by other signals; in a process of its own, as it forks."""
    home, err = Path(folder, "home"), Path(folder, "err")
    name = {"zip": "ml-100k.zip", "wheel": "ml-100k"}.get(kind, "x")
    run, old = command_to_stop(kind, given, str(home / name)), b"old" if kind in ("train", "score", "--json") else None
    experiments.tqdm.set_lock(threading.RLock())            # its own is shared with forks, which die with it
    home.mkdir()
    assert in_a_fork(run, err) == 0 and os.listdir(home) == [name], err.read_text()
    moments, new, seen = int(err.read_text().split()[-1]), content_of(home / name), set()
    points = np.unique(np.linspace(1, moments, min(most, moments)).astype(int)).tolist()
    for n in points:
        for number in (signal.SIGKILL, data.SIGNALS[n % len(data.SIGNALS)]):
            shutil.rmtree(home)
            home.mkdir()
            if old:
                (home / name).write_bytes(old)
            code, said = in_a_fork(run, err, n, number), re.sub("^training RMSE .*\n", "", err.read_text())
            where, left, now = (kind, n, number, code, said), set(os.listdir(home)) - {name}, content_of(home / name)
            assert now in (old, new) or kind == "--json" and json.loads(now) == json.loads(new)[:1], (where, now)
            seen.add((now == old, now == new))
            if number == signal.SIGKILL:
                assert code == -number and all(re.search(r"\.part$|^tmp", one) for one in left), (where, left)
            else:
                assert (code, said.count("\n"), left) == (128 + number, 1, set()) and "interrupted" in said, where
    assert {(True, False), (False, True)} <= seen, (kind, seen)
    print(len(points))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["train", "score", "export", "--json", "zip", "wheel"])
def test_a_process_stopped_at_any_moment_leaves_the_old_file_or_the_new(films, kept, tmp_path, kind):
    rows = "".join(f"{user},{item},4\n" for user in range(300) for item in range(50, 56))
    given = {"films": films, "model": kept["dual"],
             "csv": write(tmp_path, {"r.csv": "user,item,rating\n" + rows}) / "r.csv",
             "zip": write_zip(tmp_path / "web" / "ml-100k.zip", "ml-100k", ML_100K)}
    given = {name: str(path) for name, path in given.items()}
    code = f"import test_lfg; test_lfg.stop_everywhere({kind!r}, {given!r}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True,
                          text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "") and int(done.stdout.split()[-1]) >= 20


# Fuzz: whatever its bytes are, a file is read as it stands or refused in one line


WORDS = ["", " ", "nan", "inf", "-1e999", "1e39", "1e-400", "9" * 400, "0x10", "1_0", "٣", " 3 ", "-0", "3.5", "é", '"',
         '""', "a,b", "|", "::", "\t", "id:54", "user", "rating", "None", "01", "1.0", "\x85", "\u2028", "\x0c", "'"]
PIECES = [b"\xff", b"\xe9", b"\xc3", b"\0", b"\r", b"\n", b"\n\n", b"\r\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b'"',
          b" ", b",", b"\t", b"::", b"|", b"\x1a", b"-", b"9" * 400]


def in_lines(change):
    """A mutation of bytes, from one that changes a list of lines in place."""
    def mutate(rng, raw, sep):
        lines = raw.split(b"\n")
        change(rng, lines, rng.integers(len(lines)), sep)
        return b"\n".join(lines)
    return mutate


def in_fields(change):
    """A mutation of bytes, from one that changes the list of a line's fields in place."""
    def mutate(rng, lines, at, sep):
        fields = lines[at].split(sep)
        change(rng, fields, rng.integers(len(fields)))
        lines[at] = sep.join(fields)
    return in_lines(mutate)


def spliced(rng, raw, sep):
    at = rng.integers(len(raw) + 1)
    return raw[:at] + PIECES[rng.integers(len(PIECES))] + raw[at + rng.integers(2):]


def recoded(rng, raw, sep):
    source, target = rng.choice(["utf-8", "latin-1", "utf-16", "utf-8-sig", "cp037"], 2)
    return raw.decode(source, "replace").encode(target, "replace")


MUTATIONS = {
    "cut": lambda rng, raw, sep: raw[:rng.integers(len(raw) + 1)],
    "cut at the front": lambda rng, raw, sep: raw[rng.integers(len(raw) + 1):],
    "double a line": in_lines(lambda rng, lines, at, sep: lines.insert(rng.integers(len(lines)), lines[at])),
    "drop a line": in_lines(lambda rng, lines, at, sep: lines.pop(at)),
    "blank lines": in_lines(lambda rng, lines, at, sep: lines.insert(at, b" \n\t\n\r" * rng.integers(4))),
    "shuffle lines": in_lines(lambda rng, lines, at, sep: rng.shuffle(lines)),
    "swap fields": in_fields(lambda rng, fields, at: rng.shuffle(fields)),
    "drop a field": in_fields(lambda rng, fields, at: fields.pop(at)),
    "another value": in_fields(lambda rng, fields, at: fields.__setitem__(at, rng.choice(WORDS).encode())),
    "a field more": in_fields(lambda rng, fields, at: fields.insert(at, rng.choice(WORDS).encode())),
    "another separator": lambda rng, raw, sep: raw.replace(sep, PIECES[rng.integers(len(PIECES))]),
    "another one once": in_lines(lambda rng, lines, at, sep: lines.__setitem__(at, lines[at].replace(sep, b";"))),
    "newlines": lambda rng, raw, sep: raw.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\r", b"\n\n"])),
    "twice": lambda rng, raw, sep: raw + raw, "splice": spliced, "recode": recoded,
    "noise": lambda rng, raw, sep: bytes(b ^ (rng.random() < 0.01) * int(rng.integers(256)) for b in raw)}


def mutated(rng, raw, sep, times=2):
    """Bytes after one or more of MUTATIONS, and which."""
    names = rng.choice(list(MUTATIONS), rng.integers(1, times + 1)).tolist()
    for name in names:
        raw = MUTATIONS[name](rng, raw, sep)
    return raw, names


def read_plainly(raw, sep, header):
    """The ratings in a file without quotes, {(user, item): rating}, by the plainest reader."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1").removeprefix("ï»¿")
    lines = [line.split(sep) for line in re.split("\r\n|\r|\n", text) if line.strip()]
    names = lines.pop(0) if header else ["user", "item", "rating"]
    names = [re.sub("id$", "", name.lower().replace("_", "").partition(":")[0].strip()) for name in names]
    at = {name.replace("movie", "item"): n for n, name in enumerate(names)}
    return {(line[at["user"]], line[at["item"]]): float(line[at["rating"]]) for line in lines}


def check_dataset(d):
    """What every Dataset has to be."""
    R = d.ratings
    assert R.shape == (len(d.user_ids), len(d.item_ids)) and 0 < len(R) == len(pairs(R)) and np.isfinite(R.values).all()
    assert len(set(d.user_ids)) == len(d.user_ids) and len(set(d.item_ids)) == len(d.item_ids) == len(d.titles)
    for side, names, n in ((d.E, d.E_names, len(d.user_ids)), (d.F, d.F_names, len(d.item_ids))):
        assert side.shape == (n, len(names)) and side.dtype == np.float32 and set(side.ravel().tolist()) <= {0, 1}
        assert len(set(names)) == len(names)


def check_told(error, folder, raws):
    """A DataError of one line names the file and, but for what has no line, the line; raws: {file's name: bytes}."""
    message = str(error)
    named = re.fullmatch(re.escape(f"{folder}{os.sep}") + r"(.*?)(?:, line ([0-9]+))?: ([^;]*.*); ([^;]+)", message)
    assert named and "\n" not in message and len(message) < 2000, message
    name, line, problem, _ = named.groups()
    if line:
        assert 1 <= int(line) <= len(re.split(b"\r\n|\r|\n", raws[name])), message
    else:
        assert problem.startswith(("no ratings in it", *(f"{n} is here but " for n in raws))), message


NAMED = {"x.inter": "rating:float\tuser_id:token\titem_id:token\n"
                    "4.5\tann\tHeat\n2\tbob\tHeat\n5\tann\t-7\n3\tc d\tÉté\n",
         "x.item": "item_id:token\tmovie_title:token_seq\nHeat\tHeat (1995)\n-7\tSeven\nÉté\t\n"}
FORMATS = {                                                 # files, the ratings first; their separators
    "ml-100k": (ML_100K, ["\t", "|", "|"]), "ml-1m": (ML_1M, ["::"] * 3), "atomic": (ATOMIC, ["\t"] * 3),
    "atomic, ids that are names": (NAMED, ["\t"] * 2), "csv": (CSV, [","] * 2)}


@pytest.mark.parametrize("kind", FORMATS)
def test_fuzzed_data_is_read_as_it_stands_or_refused_with_file_and_line(tmp_path, kind):
    rng, outcomes, files = np.random.default_rng(11), [], FORMATS[kind][0]
    separator = dict(zip(files, FORMATS[kind][1]))
    ratings = next(iter(files))
    for n in range(450):
        folder, raws = tmp_path / str(n), {name: encoded(name, text) for name, text in files.items()}
        name = ratings if rng.random() < 0.6 else rng.choice(list(files))
        raws[name], names = mutated(rng, raws[name], separator[name].encode())
        if rng.random() < 0.03:
            del raws[rng.choice(list(raws))]
        write(folder, raws)
        try:
            d = load(folder)
        except DataError as error:
            assert str(error).startswith(str(folder)) and "\n" not in str(error), names
            if len(raws) == len(files):
                check_told(error, folder, raws)
            outcomes.append("refused")
        else:
            check_dataset(d)
            R, plain = d.ratings, {}
            if b'"' not in raws[ratings]:
                plain = read_plainly(raws[ratings], separator[ratings], kind[:2] != "ml")
                read = {(d.user_ids[u], d.item_ids[i]): v for u, i, v in zip(R.users, R.items, R.values)}
                assert read == {pair: np.float32(value) for pair, value in plain.items()}, names
            outcomes.append("read")
        assert sorted(os.listdir(folder)) == sorted(raws)
    assert min(map(outcomes.count, ("read", "refused"))) > 40


def zipped(rng, files):
    """A zip archive of ml-100k, in one of many ways not what it should be; and which."""
    members = {f"ml-100k/{name}": encoded(name, text) for name, text in files.items()}
    one = rng.choice(list(members))
    how = rng.choice("missing mutated ../ / folder twice bomb empty nested bytes lies method locked".split())
    if how in ("missing", "folder"):
        raw = members.pop(one)
        members.update({f"{one}/": b""} if how == "folder" else {})
    elif how == "mutated":
        members[one], _ = mutated(rng, members[one], b"|")
    elif how in ("../", "/", "twice"):
        members[{"../": "../../evil", "/": "/evil", "twice": one}[how]] = b"1\t9\t5\t882\n"
    elif how in ("bomb", "empty"):
        members[one] = b"\n" * 10 ** 6 * (how == "bomb")
    file = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
        if how == "twice":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(one, b"1\t9\t5\t882\n")
    raw = bytearray(file.getvalue())
    if how == "bytes":
        raw, _ = mutated(rng, bytes(raw), b"PK", 1)
    elif how in ("lies", "method", "locked"):                   # in the table of contents
        at = raw.index(b"PK\1\2")
        where, value = {"lies": (24, 1), "method": (10, 97), "locked": (8, 1)}[how]
        raw[at + where] ^= value
    elif how == "nested":
        inner, file = bytes(raw), io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("ml-100k/ml-100k.zip", inner)
        raw = file.getvalue()
    return bytes(raw), how


def test_fuzzed_archives_are_read_or_refused_and_nothing_is_unpacked(tmp_path, monkeypatch):
    no_network(monkeypatch)
    fake_pip(monkeypatch)
    monkeypatch.setattr(data, "MEMBER_LIMIT", 10 ** 5)
    rng, outcomes = np.random.default_rng(12), {}
    for n in range(400):
        raw, how = zipped(rng, ML_100K)
        path = write(tmp_path / str(n), {"ml-100k.zip": raw}) / "ml-100k.zip"
        try:
            d, outcome = load("ml-100k", path.parent), "read"
            check_dataset(d)
            assert how in ("mutated", "bytes") or pairs(d.ratings) == {(0, 0, 5), (1, 1, 3), (3, 0, 1)}
        except DataError as error:
            assert str(error).startswith(f"{path}") and "\n" not in str(error), (how, error)
            outcome = "refused"
        assert os.listdir(path.parent) == ["ml-100k.zip"] and path.read_bytes() == raw
        outcomes.setdefault(how, set()).add(outcome)
    assert {how for how, found in outcomes.items() if "read" not in found} == {
        "missing", "folder", "twice", "bomb", "empty", "nested", "method", "locked"}
    assert sorted(os.listdir(tmp_path)) == sorted(map(str, range(400)))        # nor beside


def tampered(rng, arrays):
    """The arrays of a model, one of them not what it should be; and how."""
    arrays, name = dict(arrays), rng.choice(list(arrays))
    a = arrays[name]
    change = rng.choice([
        lambda: a.reshape(-1), lambda: a[..., :-1] if a.ndim else a[None], lambda: a.ravel()[:0],
        lambda: np.asfortranarray(a), lambda: a.astype(object), lambda: a.astype(a.dtype.newbyteorder()),
        lambda: np.zeros(a.shape, [("x", "f4")]),
        lambda: a.astype("U1") if a.dtype.kind == "U" else a.astype(rng.choice(["f2", "f8", "U3", "?", "S4", "c8"])),
        None, "value", "value", "value"])
    if change is None:
        del arrays[name]
    elif change != "value":
        arrays[name] = change()
    elif a.dtype.kind == "U":
        arrays[name] = np.char.add(a, "\n\x00\ud800 x"[:rng.integers(1, 6)])
    else:
        arrays[name] = a.copy()
        arrays[name][tuple(rng.integers(n) for n in a.shape)] = (
            rng.choice([np.nan, np.inf, -np.inf, 3e38, -1e9, 1e-45, 0, 1e11]) if a.dtype.kind == "f" else 2)
    return arrays, name


def with_header(raw, rng):
    """A model file one of whose arrays declares another shape or type; as long as before, so that zip offsets hold."""
    at = rng.choice([found.start() for found in re.finditer(rb"'shape': \([^)]*\)", raw)])
    old = re.match(rb"'shape': \([^)]*\)", raw[at:])[0]
    new = rng.choice([b"9" * 40, b"-1", b"9L", b"1,1,1,1,1", b"((((((", b"8,"])
    new = (b"'shape': (" + new)[:len(old) - 1] + b")"
    new = new.ljust(len(old))
    return raw[:at] + new + raw[at + len(old):]


def crc_mended(raw):
    """A zip whose checksums fit what it holds, so that more is reached than the checksums; or bytes that are no zip."""
    raw = bytearray(raw)
    for found in re.finditer(b"PK\1\2", bytes(raw)):
        try:
            size, = struct.unpack_from("<I", raw, found.start() + 24)
            start, = struct.unpack_from("<I", raw, found.start() + 42)
            name, extra = struct.unpack_from("<HH", raw, start + 26)
            begin = start + 30 + name + extra
            struct.pack_into("<I", raw, found.start() + 16, zlib.crc32(raw[begin:begin + size]))
            struct.pack_into("<I", raw, start + 14, zlib.crc32(raw[begin:begin + size]))
        except struct.error:
            pass
    return bytes(raw)


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
def test_fuzzed_models_serve_or_are_refused(served, tmp_path, kind):
    rng, outcomes, path = np.random.default_rng(13), [], tmp_path / "model"
    model = served(kind)
    model.save(path)
    whole = path.read_bytes()
    for n in range(300):
        if n % 3 == 0:
            arrays, how = tampered(rng, model.arrays)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.savez(path, **arrays)
            os.replace(f"{path}.npz", path)
        else:
            raw, how = mutated(rng, whole, b"PK") if n % 3 == 1 else (with_header(whole, rng), "header")
            path.write_bytes(crc_mended(raw))
        try:
            other = Recommender.load(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), how
            outcomes.append("refused")
            continue
        for items, ratings in (([], []), ([1], [3]), ([5, 3, 30], [1, 2, 5])):
            try:
                places, predicted = other.recommend(items, ratings)
            except DataError as error:
                assert "\n" not in str(error)
                continue
            assert ((other.low <= predicted) & (predicted <= other.high)).all() and not set(places) & set(items), how
        outcomes.append("read")
    assert os.listdir(tmp_path) == ["model"] and min(map(outcomes.count, ("read", "refused"))) > 10


RATINGS = ('title,rating\nHeat (1995),4\n"Matrix, The (1999)",5\nid:57,2\nToy Story (1995),3.5\n\n'
           '"Été, L\' (1987)",1\n')


@pytest.mark.parametrize("what,base", [("titles", RATINGS), ("ids", "movieId,rating\n50,4\n55,1\n"), ("score", SCORED)])
def test_fuzzed_ratings_are_taken_or_refused_with_file_and_line(kept, tmp_path, monkeypatch, what, base):
    rng, outcomes, model = np.random.default_rng(14), [], Recommender.load(kept["dual"])
    for n in range(350):
        raw, names = mutated(rng, base.encode(), b",")
        path = write(tmp_path, {"r.csv": raw}) / "r.csv"
        if n % 4 == 0:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
            path = "-"
        try:
            if what == "score":
                rows = list(csv.reader(io.StringIO(b"".join(data.scored(model, path, 3)).decode(), newline="")))
                assert all(row[1] in model.item_ids and 1 <= float(row[2]) <= 5 for row in rows[1:])
            else:
                places, ratings = data.read_ratings(model, [], path)
                assert len(set(places)) == len(places) == len(ratings) and set(places) <= set(range(40))
                assert all(1 <= rating <= 5 for rating in ratings)
            outcomes.append("read")
        except DataError as error:
            named = re.match(re.escape(f"{path}, line ") + "([0-9]+): [^\n]*; [^\n]*$", str(error))
            assert named and 1 <= int(named[1]) <= len(re.split(b"\r\n|\r|\n", raw)), (names, error)
            outcomes.append("refused")
        assert os.listdir(tmp_path) == ["r.csv"]
    assert min(map(outcomes.count, ("read", "refused"))) > 40


# Any user, any data


def odd_data():
    """Odd data sets by name: triples of user, item, rating, and a shape."""
    rng = np.random.default_rng(4)
    full = [(u, i, rng.integers(1, 6)) for u in range(9) for i in range(7)]
    return {
        "one rating": ([(0, 0, 4)], (1, 1)), "one user": ([(0, i, i % 5 + 1) for i in range(6)], (1, 7)),
        "one item": ([(u, 0, u % 5 + 1) for u in range(7)], (8, 1)), "every item rated by all": (full, (9, 7)),
        "all ratings equal": ([(u, i, 3) for u, i, _ in full[::2]], (9, 7)),
        "a user whose ratings are equal": ([(u, i, v if u else 5) for u, i, v in full], (9, 7)),
        "one more user than a block": ([(u, (u * 5 + n) % 7, n + 1) for u in range(129) for n in range(3)], (129, 7)),
        "users and items without ratings": ([(u, i, v) for u, i, v in full if u % 2 and i % 3], (9, 7)),
        "stars of 0 to 1": ([(u, i, v / 5) for u, i, v in full], (9, 7)),
        "a scale below 0": ([(u, i, v - 8) for u, i, v in full], (9, 7)),
        "a scale far off": ([(u, i, v + 20_000_000) for u, i, v in full], (9, 7))}


def odd(name, n_columns):
    """Ratings of odd_data in the unit of training, the unit, and side information for users and items."""
    triples, shape = odd_data()[name]
    R = Ratings(*zip(*triples), shape)
    unit, rng = experiments.rating_unit(R), np.random.default_rng(5)
    return R, unit, *((rng.random((n, n_columns)) < 0.5).astype(np.float32) for n in shape)


@pytest.mark.parametrize("n_columns", [0, 2])
@pytest.mark.parametrize("name", odd_data())
def test_all_models_answer_for_any_data(name, n_columns):
    R, unit, E, F = odd(name, n_columns)
    scaled, (users, items) = R.with_values(R.values / unit), np.indices(R.shape).reshape(2, -1)
    for cls in (SVD, BiasSVD, SVDpp):                       # n_factors is above any rank here
        model = cls(n_factors=20, epochs=3).fit(scaled)
        assert np.isfinite(model.predict(users, items)).all()
        assert all(np.isfinite(part).all() for part in fold_in(scaled, model.q, model.bi, model.mu, 1.0, 1.0))
    for batch in (1, 128):                                  # alone in a batch, BatchNorm has no variance
        for turned, side, other in ((scaled, E, users), (scaled.T, F, items)):
            model = lfg(n_factors=20, batch=batch).fit(turned, side)
            nobody = turned.where(np.zeros(len(turned), bool))
            for profile in (turned, nobody):
                assert np.isfinite(model.predict(other, items if turned is scaled else users, profile, side)).all()


@pytest.mark.parametrize("kind", ["user", "item", "dual"])
@pytest.mark.parametrize("name", odd_data())
def test_a_served_model_answers_any_profile_within_the_scale(tmp_path, name, kind):
    R, unit, E, F = odd(name, 2)
    scaled, n_items = R.with_values(R.values / unit), R.shape[1]
    sides = [item_side(lfg(n_factors=20).fit(scaled.T, F), scaled, F, 5.0, 3.0)] if kind != "user" else []
    user = lfg(n_factors=20).fit(scaled, E) if kind != "item" else None
    Recommender(assemble(facts(R, E, unit), user, sides, (5, 3), (0.5, 0.5))).save(tmp_path / "model")
    model, low, high = Recommender.load(tmp_path / "model"), R.values.min(), R.values.max()
    for n in {0, 1, n_items}:
        for ratings in ([low] * n, [high] * n, np.linspace(low, high, n)):
            for side in (None, E[0], E[0] * 0):
                assert np.isfinite(model.predict(range(n), ratings, side)).all()
                places, predicted = model.recommend(range(n), ratings, side)
                assert ((low <= predicted) & (predicted <= high)).all()
                assert sorted(places) == [i for i in range(n, n_items) if (R.items == i).any()]


def test_an_item_that_no_training_rating_has_is_predicted(cli, small):
    R = small.ratings
    first = np.unique(R.items, return_index=True)[1]
    R = R.where((R.items >= 20) | np.isin(np.arange(len(R)), first))       # one user rates each of the others
    cli.data = replace(small, ratings=R)
    for test in ("basic", "realtime"):
        parts = {fold: split(R, test, fold, 0) for fold in range(1, 6)}
        fold = next(fold for fold in parts if parts[fold].target.items.min() < 20)
        assert not set(parts[fold].target.items[parts[fold].target.items < 20]) & set(parts[fold].train.items)
        code, out, err = cli("--dataset", "synthetic", "--test", test, "--folds", fold)
        assert (code, err) == (0, "") and "nan" not in out and len(rows_of(out)) == 5


@pytest.mark.parametrize("test", [*experiments.COLUMNS, "ablation", "speed"])
@pytest.mark.parametrize("value", [3.3, 20_000_001])
def test_ratings_that_are_all_equal_end_in_tables(cli, busy, monkeypatch, test, value):
    monkeypatch.setenv("LFG_SPEED", "1")
    cli.data = replace(busy, ratings=busy.ratings.with_values(np.full(len(busy.ratings), value)))
    code, out, err = cli("--dataset", "synthetic", "--test", test, "--folds", 1)
    assert (code, err) == (0, "") and "nan" not in out


@pytest.mark.parametrize("fit", [
    lambda R, E: BiasSVD().fit(R), lambda R, E: SVDpp().fit(R), lambda R, E: LFG().fit(R, E)])
def test_no_ratings_are_told(fit):
    with pytest.raises(DataError, match="no ratings to learn from"):
        fit(Ratings([], [], [], (3, 4)), np.zeros((3, 0)))


def test_no_users_have_no_factors(small):
    nobody = Ratings([], [], [], (0, 40))
    assert lfg(epochs=1).fit(small.ratings, small.E).generate(nobody, small.E[:0])[0].shape == (0, 3)
    assert SVDpp(n_factors=3, epochs=1).fit(small.ratings).z(nobody).shape == (0, 3)


def test_side_information_is_of_all_users(small):
    with pytest.raises(DataError, match="E has 59 rows for 60 users"):
        lfg().fit(small.ratings, small.E[1:])


# Numbers: every warning of NumPy is an error here, as pyproject.toml has it


@pytest.mark.parametrize("rate,epochs", [(10, 5), (1e4, 1), (1e19, 1), (1e38, 1), (1e38, 5)])
@pytest.mark.parametrize("fit", [
    lambda R, E, **more: SVD(n_factors=5, **more).fit(R), lambda R, E, **more: BiasSVD(n_factors=5, **more).fit(R),
    lambda R, E, **more: SVDpp(n_factors=5, **more).fit(R), lambda R, E, **more: LFG(**more).fit(R, E),
    lambda R, E, **more: LFG(hidden=(8, 8), dtype=np.float64, **more).fit(R, E)])
def test_a_training_that_diverges_says_so(small, fit, rate, epochs):
    with pytest.raises(DataError, match="training diverged: a mean squared error of .* in epoch .; lower the rate$"):
        fit(small.ratings, small.E, rate=rate, epochs=epochs)


def test_a_command_whose_training_diverges_ends_in_one_line(cli, serve, films, tmp_path, monkeypatch):
    rate = dict.fromkeys(experiments.CLASSES, {"rate": 10, "epochs": 5})
    settings = {key: {name: {**setting, **rate.get(name, {})} for name, setting in of.items()}
                for key, of in experiments.SETTINGS.items()}
    monkeypatch.setattr(experiments, "SETTINGS", settings)
    code, _, err = cli("--dataset", "synthetic", "--folds", 1)
    assert (code, err.count("\n")) == (2, 1) and err.startswith("experiments.py: training diverged: ")
    assert "training diverged: " in told(serve("train", "--dataset", films, "--out", tmp_path / "model"))
    assert os.listdir(tmp_path) == []


THREADS = """
import json, sys, numpy as np, experiments
from data import load
from lfg import LFG
d = load("synthetic:400x300x9000")
model = LFG(n_factors=50, hidden=(256, 128))
model.start(d.ratings, d.E.shape[1], np.random.default_rng(0))
np.save(sys.argv[1] + ".npy", model.predict(d.ratings.users, d.ratings.items, d.ratings, d.E))
experiments.main(["--dataset", "synthetic:400x300x9000", "--test", "realtime", "--folds", "1", "2", "--quiet",
                  "--models", "biassvd", "svdpp", "lfg", "--json", sys.argv[1]])
"""


def test_one_thread_and_two_agree(tmp_path):
    forward, tables = [], []
    for threads in "12":
        path = str(tmp_path / threads)
        limits = dict.fromkeys(experiments.ONE_THREAD.keys() - {"LFG_SPEED"}, threads)
        done = subprocess.run([sys.executable, "-W", "error", "-c", THREADS, path], cwd=Path(__file__).parent,
                              capture_output=True, text=True, env={**os.environ, **limits})
        assert (done.returncode, done.stderr) == (0, "")
        forward.append(np.load(path + ".npy"))
        tables.append(json.loads(Path(path).read_text())[0]["average"])
    assert np.abs(forward[0] - forward[1]).max() < 1e-5 and forward[0].std() > 0.001
    assert tables[0] == pytest.approx(tables[1], abs=1e-3)


@pytest.mark.parametrize("kind", ["item", "dual"])
def test_what_a_file_cannot_hold_is_not_written(served, tmp_path, kind):
    model = served(kind)
    for value in (1e11, np.nan):
        model.arrays["q0"] = np.full_like(model.arrays["q0"], value)
        with pytest.raises(DataError, match="q0 is not finite or beyond 1e10"):
            model.save(tmp_path / "x")
    assert os.listdir(tmp_path) == []
    model.arrays["q0"] = np.full_like(model.arrays["q0"], -1e6)
    model.save(tmp_path / "x", half=True)
    assert (Recommender.load(tmp_path / "x").arrays["q0"] == -65504).all()


# Security


BANNED = {"eval", "exec", "__import__", "pickle", "marshal", "shelve", "popen", "system", "shell", "allow_pickle",
          "read_pickle", "extract", "extractall", "unpack_archive", "yaml", "mktemp"}


def test_no_code_evaluates_text_unpickles_unpacks_or_calls_a_shell():
    for path in sorted(Path(experiments.__file__).parent.glob("[!t]*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module")}
            assert not names & BANNED and ast.unparse(node) != "np.load", f"{path.name}, line {node.lineno}"


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_in_a_model_is_not_run(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = np.empty(3, object)
    trap[:] = Trap()
    refused(file_of(tmp_path, {**served().arrays, "mu": trap}))
    refused(file_of(tmp_path, {**served().arrays, "extra": trap}))
    assert os.listdir(tmp_path) == ["x.npz"]


# What broke when strangers used it


def command_line(name, *arguments, before=(), **options):
    """The real command line of lfg.py or experiments.py; before: a command that runs it."""
    script = Path(experiments.__file__).with_name(name)
    return subprocess.run([*before, sys.executable, script, *map(str, arguments)], **{
        **dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), **options})


def shell(redirection):
    """A command that runs another with its streams redirected."""
    return ["sh", "-c", f'exec "$@" {redirection}', "sh"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["lfg.py", "experiments.py"])
@pytest.mark.parametrize("number", data.SIGNALS)
def test_a_signal_while_importing_is_one_line_and_an_ignored_one_is_none(tmp_path, name, number):
    write(tmp_path, {"argparse.py": f"import os\nos.kill(os.getpid(), {int(number)})\nraise SystemExit(7)\n"})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = command_line(name, "recommend", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"{name}: interrupted\n")
    done = command_line(name, env={**environment, "LFG_SPEED": "1"})
    assert (done.returncode, done.stderr) == (128 + number, "lfg.py: interrupted\n" * (name == "lfg.py"))
    done = command_line(name, before=["sh", "-c", f"trap '' {int(number)}; exec \"$@\"", "sh"], env=environment)
    assert (done.returncode, done.stderr) == (7, "")


SIGNALLED = """
import os, signal, sys, data
class Loud:
    def __del__(self):
        raise ValueError("closed too late")
def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
def work():
    try:
        send(numbers[0])
    except KeyboardInterrupt:
        Loud()
        send(*numbers[1:])
        raise ValueError("closed by a library")
    finally:
        print("cleaned up", flush=True)
numbers = [int(number) for number in sys.argv[1:]]
data.command(lambda: data.guarded("x", work, "interrupted"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize("numbers,code,out", [([15], 143, "cleaned up\n"), ([2], 130, "cleaned up\n"),
                                              ([1], 129, "cleaned up\n"), ([2, 2, 15], 130, "cleaned up\n"),
                                              ([2, 2, 2, 15], 143, "")])
def test_more_signals_leave_time_to_clean_up_but_not_for_ever(numbers, code, out):
    done = subprocess.run([sys.executable, "-c", SIGNALLED, *map(str, numbers)], capture_output=True, text=True,
                          cwd=Path(experiments.__file__).parent)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, "x: interrupted\n" * bool(out))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_signal_that_is_ignored_stays_ignored(number):
    ignoring = ["sh", "-c", f"trap '' {number}; exec \"$@\"", "sh"]
    done = subprocess.run([*ignoring, sys.executable, "-c", SIGNALLED, str(number)],
                          capture_output=True, text=True, cwd=Path(experiments.__file__).parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
def test_closed_and_full_streams(kept, films, tmp_path):
    model = kept["dual"]
    for redirection, code in ((">&-", 0), ("2>&-", 0)):
        assert command_line("lfg.py", "recommend", "--model", model, before=shell(redirection)).returncode == code
    done = command_line("lfg.py", "recommend", "--model", tmp_path / "none", before=shell("2>&-"))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    done = command_line("lfg.py", "recommend", "--model", model, "--ratings", "-", before=shell("<&-"))
    assert (done.returncode, done.stderr) == (2, "lfg.py: -: standard input is closed; name a CSV file\n")
    done = command_line("experiments.py", "--dataset", films, "--models", "svd", "--folds", 1, before=shell("2>&-"))
    assert done.returncode == 0 and "Average RMSE" in done.stdout


def test_a_mistake_that_nobody_hears_ends_with_its_code(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    def mistake():
        raise DataError("x")
    monkeypatch.setattr(sys, "stderr", Full())
    assert data.guarded("x", mistake, "") == 2
    sys.stderr.close()                                      # the null device


def test_an_error_of_the_system_names_its_file(capsys):
    assert data.guarded("x", lambda: os.listdir("no such folder"), "") == 2
    assert capsys.readouterr().err == "x: no such folder: No such file or directory; give another\n"


def test_a_mistake_in_several_lines_is_one(cli):
    code, out, err = cli("--models", "a\nb", "--dataset", "c\nd")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = cli("x\ny")
    assert (code, out, err.count("\n")) == (2, "", 1) and "x y" in err


@pytest.mark.parametrize("option", ["--seeds", "--seed", "--factors", "--epochs"])
def test_numbers_beyond_all_measure_are_refused(serve, option):
    for number in ("9" * 5000, "99999999999999999999"):
        assert f"argument {option}: '999" in told(serve("train", "--out", "x", option, number))


def test_what_is_read_is_not_replaced(serve, cli, films, kept, tmp_path):
    before = content_of(films)
    for name in ("u.data", "u.item"):
        for code, out, err in (serve("train", "--dataset", films, "--out", films / name),
                               serve("train", "--data-dir", films.parent, "--dataset", films.name, "--out",
                                     films / name), cli("--dataset", films, "--json", films / name)):
            assert (code, out) == (2, "") and "is or may be what is read; give a file of its own" in err
    write(tmp_path, {"m": kept["dual"].read_bytes(), "r.csv": SCORED})
    model, csv_file = tmp_path / "m", tmp_path / "r.csv"
    for out in (model, csv_file, tmp_path / "." / "m"):
        assert "may be what is read" in told(serve("score", "--model", model, "--ratings", csv_file, "--out", out))
    assert content_of(films) == before and model.read_bytes() == kept["dual"].read_bytes()


def test_outputs_that_cannot_be_are_told_before_any_work(serve, cli, kept, films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "exists and is not an empty folder" in told(serve("export", "--model", kept["dual"], "--out", ""))
    assert "not a plain file" in told(serve("train", "--dataset", films, "--out", ""))
    assert cli("--dataset", films, "--json", "")[0] == 2 and os.listdir(tmp_path) == []
    monkeypatch.setattr(data.os, "access", lambda folder, mode: False)     # root may write anywhere
    monkeypatch.setattr(experiments, "train", lambda *_: pytest.fail("too late"))
    assert "m: Permission denied; name a folder" in told(serve("train", "--dataset", films, "--out", "m"))


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path):
    write_whole(tmp_path / ("x" * 255), "text")
    assert os.listdir(tmp_path) == ["x" * 255]


def test_threads_save_to_one_path(served, tmp_path):
    model = served()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(model.save, [tmp_path / "x"] * 40))
    assert os.listdir(tmp_path) == ["x"] and differing(Recommender.load(tmp_path / "x").arrays, model.arrays) == []


def test_a_name_that_is_no_text_or_has_lines_stands_in_a_title(tmp_path):
    assert load(write(tmp_path / "a\nb", ML_100K)).name == "a b"
    odd_name = tmp_path / os.fsdecode(b"d\xff")
    try:
        write(odd_name, ML_100K)
    except OSError:
        pytest.skip("a file system of text names")
    assert load(odd_name).name == "d?"


def test_utf_8_in_grouplens_layout_is_read_as_such(tmp_path):
    files = {name: text.encode() for name, text in ML_100K.items()}
    assert load(write(tmp_path, files)).titles == load(write(tmp_path / "b", ML_100K)).titles
    assert load(tmp_path).titles[0] == "Été, L' (1987)"


def test_columns_with_other_ids_and_unused_names_are_left_alone(tmp_path):
    text = "userId,movieId,ratingId,rating,title,movie_title\n1,2,77,3,a,b\n2,2,78,5,a,b\n"
    assert load(write(tmp_path / "a", {"ratings.csv": text})).ratings.values.tolist() == [3, 5]
    text = text.replace(",rating,", ",value,")
    assert "must name rating once" in fail(write(tmp_path / "b", {"ratings.csv": text}))


@pytest.mark.parametrize("files,name,column", [
    ("atomic", "x.user", "occupation"), ("atomic", "x.user", "gender"), ("atomic", "x.item", "genres"),
    ("csv", "movies.csv", "genres")])
def test_free_text_where_kinds_are_expected_is_told(tmp_path, monkeypatch, files, name, column):
    monkeypatch.setattr(data, "MOST_KINDS", 1)
    files = {"atomic": ATOMIC, "csv": CSV}[files]
    for other in {"gender", "occupation"} - {column}:
        files = {key: text.replace(f"{other}:token", "x:token") for key, text in files.items()}
    said = f"{name}, line {2 if column == 'genres' else 3}: {column} has more than 1 values; leave that column out"
    assert said in fail(write(tmp_path, files))


def test_ids_and_titles_have_a_length(tmp_path):
    long = "x" * (data.LONGEST + 1)
    header, rows = "userId,movieId,rating\n", {"user": f"1,2,3\n{long},2,3\n", "item": f"1,2,3\n1,{long},3\n"}
    for kind, text in rows.items():
        message = fail(write(tmp_path / kind, {"ratings.csv": header + text}))
        assert f"ratings.csv, line 3: {kind} id of over 1000 characters" in message and len(message) < 500
        d = load(write(tmp_path / kind, {"ratings.csv": header + text.replace(long, long[1:])}))
        assert len(max([*d.user_ids, *d.item_ids], key=len)) == data.LONGEST
    movies = f"movieId,title\n2,{long}\n"
    message = fail(write(tmp_path / "title", {"ratings.csv": header + "1,2,3\n", "movies.csv": movies}))
    assert "movies.csv, line 2: a title of more than 1000 characters" in message and len(message) < 500


def test_blank_lines_are_counted_and_take_no_part(tmp_path):
    text = "\n" * 10 ** 5 + "userId,movieId,rating\n" + " \n" * 10 ** 5 + "1,2,3\n\n1,2,4\n"
    message = fail(write(tmp_path, {"ratings.csv": text}))
    assert "line 200004: user '1' rates item '2' twice, first in line 200002" in message


@pytest.mark.parametrize("line,said", [
    ("1,50,1_0", "'1_0' is no rating"), ("1,50,٤", "'٤' is no rating"), ("1,50,0x4", "'0x4' is no rating"),
    (",50,4", "empty user id"), ("a\0,50,4", "a NUL byte"), ('"a\rb",50,4', "a NUL byte, a carriage return"),
    ("\ufeffa,50,4", "byte order mark"), ('"a\n\nb",49,4', "item '49' is not in the model")])
def test_score_and_recommend_refuse_at_the_first_line_of_what_is_wrong(serve, kept, tmp_path, line, said):
    path = write(tmp_path, {"r.csv": f"user,item,rating\n \n0,50,4\n{line}\n5,50,4\n"}) / "r.csv"
    err = told(serve("score", "--model", kept["dual"], "--ratings", path, "--out", tmp_path / "o"))
    assert err.startswith(f"lfg.py: {path}, line 4: ") and said in err or sys.version_info < (3, 11) and "NUL" in err
    if "no rating" in said:
        write(tmp_path, {"r.csv": f"id:51,4\nid:50,{line.split(',')[-1]}\n"})
        err = told(serve("recommend", "--model", kept["dual"], "--ratings", path))
        assert err.startswith(f"lfg.py: {path}, line 2: {said}")


@pytest.mark.parametrize("text", ["4", " 4 ", "+4.", "4e0", ".4E1", "04"])
def test_what_is_a_rating(kept, text):
    assert data._rating(Recommender.load(kept["dual"]), text, "x") == 4


def test_ratings_are_read_until_the_first_that_is_wrong(kept, monkeypatch):
    def lines():
        yield "Heat (1995),4\n"
        yield "Heat (1995),9\n"
        pytest.fail("reads on")
    monkeypatch.setattr(data, "_open_text", lambda path: nullcontext(lines()))
    with pytest.raises(DataError, match="line 2: '9' is no rating|rated twice"):
        data.read_ratings(Recommender.load(kept["dual"]), [], "-")


def test_titles_are_looked_up_in_one_index(kept, tmp_path, monkeypatch):
    calls, model = record(data, "_title_keys", monkeypatch.setattr), Recommender.load(kept["dual"])
    path = write(tmp_path, {"r.csv": "Heat (1995),4\nToy Story (1995),3\nFilm 9,2\nFilm 10,2\n"}) / "r.csv"
    data.read_ratings(model, [], path)
    assert len(calls) == 40 + 4


def test_standard_input_reads_like_a_file_whatever_the_locale(kept, tmp_path):
    raw = "\ufeffmovieId,rating\n54,4\n".encode()
    path = write(tmp_path, {"r.csv": raw}) / "r.csv"
    command = ["recommend", "--model", kept["dual"], "--json", "--ratings"]
    expected = command_line("lfg.py", *command, path).stdout
    for encoding in ("latin-1", "ascii", "utf-8"):
        with open(path) as file:
            done = command_line("lfg.py", *command, "-", stdin=file, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0 and json.loads(done.stdout)[0]["id"] == json.loads(expected)[0]["id"]
    assert '"id": "54"' not in expected
    path.write_bytes(b"user,item,rating\n\xff,50,5\n")
    with open(path) as file:
        done = command_line("lfg.py", "score", "--model", kept["dual"], "--ratings", "-", "--out", tmp_path / "o",
                            stdin=file, env={**os.environ, "PYTHONIOENCODING": "utf-8:surrogateescape"})
    assert done.stderr == "lfg.py: -, line 2: not UTF-8 text; save it as UTF-8\n"


@pytest.mark.parametrize("name,value", [("E_names", "\ud800"), ("titles", "\udcff"), ("item_ids", "a\ud800")])
def test_text_that_cannot_be_shown_is_no_model(served, tmp_path, name, value):
    a = served().arrays[name].astype("U40")
    a[1] = value
    assert "not a model file" in refused(file_of(tmp_path, {**served().arrays, name: a}))


def test_a_network_of_no_width_and_a_model_of_no_items_are_refused(served, tmp_path):
    arrays = served("user").arrays
    narrow = {name: arrays[name][..., :0] for name in ("W0", "b0", "gain", "shift", "mean", "var")}
    narrow = {**arrays, **narrow}
    assert "not as the rest" in refused(file_of(tmp_path, {**narrow, "W1": arrays["W1"][:0]}))
    nothing = served("item").arrays
    nothing = {name: a[:0] if len(a.shape) and len(a) == 40 else a for name, a in nothing.items()}
    assert "not as the rest" in refused(file_of(tmp_path, nothing))


def test_a_header_that_numpy_warns_of_is_read_in_silence(served, tmp_path):
    model, path = served("user"), tmp_path / "x"
    model.save(path)
    raw = path.read_bytes()
    assert raw.count(b"'shape': (40,), }") > 1
    path.write_bytes(crc_mended(raw.replace(b"'shape': (40,), }", b"'shape': (40L,),}")))     # as Python 2 wrote it
    assert differing(Recommender.load(path).arrays, model.arrays) == []


def test_export_through_a_link_fills_the_folder_it_names(serve, kept, tmp_path):
    (tmp_path / "folder").mkdir()
    os.symlink("folder", tmp_path / "link")
    assert serve("export", "--model", kept["user"], "--out", tmp_path / "link")[0] == 0
    assert os.path.islink(tmp_path / "link") and len(os.listdir(tmp_path / "folder")) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "x")
    assert "not a model file" in refused(tmp_path / "x")


def test_ages_that_are_no_numbers_are_no_brackets(served):
    model = served()
    model.E_names[3:6] = ["age=x", "age=", "age=" + "9" * 5000]
    side = data.read_side(model, {"age": 30})
    assert np.flatnonzero(side == 1).tolist() == [model.E_names.index("age=25")]


def test_weights_out_of_all_measure_are_told_by_export_too(serve, served, tmp_path):
    arrays = served("item").arrays
    path = file_of(tmp_path, {**arrays, "q0": np.full_like(arrays["q0"], 1e5), "ridge": np.float32([1e-9, 1e-9])})
    assert "out of all measure" in told(serve("export", "--model", path, "--out", tmp_path / "ported"))
    assert os.listdir(tmp_path) == ["x.npz"]


def test_an_answer_beyond_all_numbers_is_told(served):
    model = served("item", unit=2.25)
    model.unit = 3e38
    with pytest.raises(DataError, match="out of all measure"):
        model.predict([], [])


def test_a_zip_that_python_warns_of_is_read_in_silence(tmp_path):
    info = zipfile.ZipInfo("ml-100k/u.data")
    info.extra = struct.pack("<HHBL", 0x7075, 5, 1, zlib.crc32(b"ml-100k/u.data"))         # an empty Unicode path
    write_zip(tmp_path / "ml-100k.zip", "ml-100k", {name: ML_100K[name] for name in ("u.user", "u.item")})
    with zipfile.ZipFile(tmp_path / "ml-100k.zip", "a") as archive:
        archive.writestr(info, ML_100K["u.data"])
    assert len(load("ml-100k", tmp_path).ratings) == 3


def test_an_error_without_words_has_its_name():
    with pytest.raises(DataError, match="^x: EOFError; y$"):
        with data._told("x", "y"):
            raise EOFError
