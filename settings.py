"""Every hyperparameter: one setting per model and table, and the grid that --test tune varies.

All were chosen on a validation part of the training ratings; `python experiments.py --test tune`
prints the grid around each. What is not named here is the default of the class in svd.py or lfg.py.
"LFG-dual", "LFG-rank": seeds: how many item networks it joins; kept: how many of their factors
remain (if not all); user_weight: the weight of the user network in the mean for users with many
ratings; empty_weight: with none (if it differs).
"""

from math import log

COUNTS = (0, 1, 2, 5, 10, 20, 50)                          # ratings shown in the test coldstart
SHARES = (5, 10, 25, 50, 100)                              # % of the users, in the test sample
SIZES = {"ml-100k": 100_000, "ml-1m": 1_000_209}           # ratings of each data set

SETTINGS = {
    ("ml-100k", "basic"): {
        "SVD": dict(n_factors=10, l2=1.1, start=0.1, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "SVD++": dict(n_factors=20, l2=1.4, l2_bias=0.6, epochs=20, rate=0.02),
        "LFG (paper)": dict(n_factors=10, hidden=(256, 64, 32, 32), rate=2e-3, batch=64, epochs=20),
        "LFG": dict(n_factors=200, l2=0.2, l2_M=0.6, mask=0.3, epochs=30, rate=5e-3),
        "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2,
                         svd_rows=30, rate=5e-3),
        "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0),
        "LFG-dual": dict(seeds=5, user_weight=0.15),
    },
    ("ml-1m", "basic"): {
        "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "SVD++": dict(n_factors=10, l2=1.25, l2_bias=0.6, epochs=40, rate=0.02),
        "LFG (paper)": dict(n_factors=20, hidden=(256, 64, 32), rate=2e-3, batch=128, epochs=20),
        "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
        "LFG-item": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.06, mask=0.5,
                         shown_weight=0.2),
        "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0, l2_item=2.0),
        "LFG-dual": dict(seeds=4, user_weight=0.2),
    },
}
for data_set in SIZES:
    SETTINGS[data_set, "published"] = SETTINGS[data_set, "basic"]
SETTINGS["ml-100k", "realtime"] = {                        # what is not named is as in basic
    **SETTINGS["ml-100k", "basic"],
    "BiasSVD": dict(n_factors=50, l2=1.1, l2_bias=0.3, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=7.0, l2_bias=3.0, l2_item=300.0),
    "SVD++": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
    "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
    "LFG (paper)": dict(n_factors=5, hidden=(256, 64, 32), rate=4e-3, batch=64, epochs=20),
    "LFG": dict(n_factors=200, l2=0.3, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2,
                     svd_rows=30, batch=256),
    "LFG-item fold-in": dict(l2=200.0, l2_bias=3.0),
}
SETTINGS["ml-1m", "realtime"] = {
    **SETTINGS["ml-1m", "basic"],
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=10.0, l2_bias=3.0, l2_item=300.0, strength=10.0),
    "SVD++": dict(n_factors=20, l2=1.2, l2_bias=0.3, epochs=40, rate=0.02),
    "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
    "LFG (paper)": dict(n_factors=20, hidden=(512, 128, 64), rate=4e-3, batch=128, epochs=16),
    "LFG-item fold-in": dict(l2=350.0, l2_bias=3.0, l2_item=2.0),
    "LFG-dual": dict(seeds=4, user_weight=0.15),
}
SETTINGS["ml-100k", "newitem"] = {
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=7.0, l2_bias=1.0, l2_item=300.0, strength=0.3),
    "LFG": dict(n_factors=200, l2=0.15, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    "LFG fold-in": dict(l2=400.0, l2_bias=3.0, l2_item=1.0, strength=10.0),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.3, shown_weight=0.5,
                     svd_rows=30, batch=64),
    "LFG-dual": dict(seeds=5, user_weight=0.5),
}
SETTINGS["ml-1m", "newitem"] = {
    "BiasSVD": dict(n_factors=100, l2=1.5, l2_bias=0.3, epochs=20, rate=0.01),
    "BiasSVD fold-in": dict(l2=8.0, l2_bias=2.0, l2_item=300.0, strength=1.0),
    "LFG": SETTINGS["ml-1m", "realtime"]["LFG"],
    "LFG fold-in": dict(l2=600.0, l2_bias=1.0, l2_item=0.5, strength=30.0),
    "LFG-item": dict(n_factors=200, l2=0.04, l2_M=0.06, mask=0.3, shown_weight=0.5, epochs=60),
    "LFG-dual": dict(seeds=2, user_weight=0.5),
}
SETTINGS["ml-100k", "coldstart"] = {
    **SETTINGS["ml-100k", "realtime"],
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=6.0, l2_item=300.0),
    "LFG": dict(n_factors=200, l2=0.6, l2_M=0.6, mask=(0.3, 1.0), epochs=40, rate=5e-3),
    "LFG-item fold-in": dict(l2=300.0, l2_bias=6.0),
    "LFG-dual": dict(seeds=5, kept=150, user_weight=0.15, empty_weight=0.3),
}
SETTINGS["ml-1m", "coldstart"] = {
    **SETTINGS["ml-1m", "realtime"],
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=3.0, l2_item=300.0),
    "LFG": dict(n_factors=100, hidden=(500,), l2=0.02, l2_M=0.2, mask=(0.3, 1.0), epochs=30),
    "LFG-item fold-in": dict(l2=350.0, l2_bias=6.0, l2_item=2.0),
    "LFG-dual": dict(seeds=4, kept=150, user_weight=0.15, empty_weight=0.4),
}
SETTINGS["ml-100k", "topn"] = {                            # LFG-rank serves any number of ratings
    **SETTINGS["ml-100k", "realtime"],
    "Popularity": {},
    "EASE": dict(l2=200.0),
    "Mult-VAE": dict(l2=0.001),
    "LFG-rank user": dict(l2=0.5, l2_M=0.05, mask=0.5),
    "LFG-rank item": dict(rate=5e-3),
    "LFG-rank item fold-in": dict(l2=200.0, few=50.0, strength=100.0, known=20.0),
    "LFG-rank": dict(seeds=3, kept=200, user_weight=0.5, empty_weight=0.0),
}
SETTINGS["ml-1m", "topn"] = {
    **SETTINGS["ml-1m", "realtime"],
    "LFG-dual": dict(seeds=2, user_weight=0.15),
    "Popularity": {},
    "EASE": dict(l2=600.0),
    "Mult-VAE": dict(l2=0.0003),
    "LFG-rank user": dict(hidden=(500,), l2=0.03, l2_M=0.03, mask=0.5),
    "LFG-rank item": dict(hidden=(500,), epochs=40),
    "LFG-rank item fold-in": dict(l2=300.0, few=200.0, strength=100.0, known=12.0),
    "LFG-rank": dict(seeds=2, kept=200, user_weight=0.6, empty_weight=0.0),
}
SETTINGS["ml-100k", "coldstart topn"] = SETTINGS["ml-100k", "topn"]
SETTINGS["ml-1m", "coldstart topn"] = {
    **SETTINGS["ml-1m", "topn"],
    "LFG-rank user": dict(n_factors=100, hidden=(500,), l2=0.03, l2_M=0.03, mask=(0.3, 1.0)),
    "LFG-rank item fold-in": dict(l2=300.0, few=200.0, strength=100.0, known=12.0, power=0.0),
    "LFG-rank": dict(seeds=2, kept=200, user_weight=0.6, empty_weight=1.0),
}

RIDGE_GRID = {"l2": (0.5, 2), "l2_bias": (0.3, 3), "l2_item": (0.5, 2), "strength": (0.3, 3)}
FACTORIZATION_GRID = {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "l2_bias": (0.5, 2),
                      "epochs": (0.5, 2), "rate": (0.5, 2)}
GRID = {                                                   # multiplies one value at a time
    "SVD": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "start": (0.3, 3), "epochs": (0.5, 2),
            "rate": (0.5, 2)},
    "BiasSVD": FACTORIZATION_GRID,
    "SVD++": FACTORIZATION_GRID,
    "LFG (paper)": {"n_factors": (0.5, 2), "hidden": (0.5, 2), "epochs": (0.5, 2),
                    "rate": (0.5, 2), "batch": (0.5, 2)},
    "LFG": {"n_factors": (0.5, 2), "l2": (0.5, 2), "l2_M": (0.7, 1.4), "mask": (0.7, 1.4),
            "rate": (0.6, 1.6)},
    "LFG-item": {"l2": (0.5, 2), "l2_M": (0.7, 1.4), "mask": (0.7, 1.4), "shown_weight": (0.5, 2),
                 "rate": (0.6, 1.6)},
    "BiasSVD fold-in": RIDGE_GRID,
    "SVD++ fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "LFG fold-in": RIDGE_GRID,
    "LFG-item fold-in": RIDGE_GRID,
    "LFG-dual": {"kept": (0.7, 2), "user_weight": (0, 0.5, 2), "empty_weight": (0.5, 1.5)},
    "EASE": {"l2": (0.5, 0.7, 1.4, 2)},
    "Mult-VAE": {"l2": (0.3, 3), "beta": (0.5, 2), "dropout": (0.7, 1.4), "epochs": (0.5, 2),
                 "rate": (0.5, 2)},
    "LFG-rank user": {"l2": (0.3, 3), "l2_M": (0.3, 3), "mask": (0.7, 1.4), "epochs": (0.7, 1.4),
                      "rate": (0.6, 1.6)},
    "LFG-rank item": {"l2": (0.3, 3), "l2_M": (0.3, 3), "mask": (0.7, 1.4), "a0": (0.5, 2),
                      "epochs": (0.7, 1.4), "rate": (0.6, 1.6)},
    "LFG-rank item fold-in": {"l2": (0.7, 1.4), "few": (0.3, 3), "strength": (0.3, 3),
                              "known": (0.3, 2)},
    "LFG-rank": {"kept": (0.5, 2), "user_weight": (0, 0.5, 1.5), "empty_weight": (0, 0.5)},
}


def epochs_for(epochs, n_ratings):
    """Epochs for data with n_ratings: fewer than on ML-1m if there are more, down to a quarter.

    An epoch then has more steps.
    """
    return round(epochs * max(0.25, min(1, SIZES["ml-1m"] / n_ratings)))


def for_genres(setting, data):
    """A setting whose weight `known` of F, if it has one, applies to genres alone."""
    if "known" not in setting:
        return setting
    known = [setting["known"] * name.startswith("genre=") for name in data.F_names]
    return {**setting, "known": known}


def settings_for(n_ratings, test, seeds=None):
    """Settings of a test, {name: keyword arguments}: those of the data set nearest in size.

    Nearest by ratio of sizes. seeds: replaces the number of item networks.
    """
    name = min(SIZES, key=lambda name: abs(log(SIZES[name] / n_ratings)))
    settings = dict(SETTINGS[name, test])
    for ensemble in ("LFG-dual", "LFG-rank"):
        if seeds and ensemble in settings:
            settings[ensemble] = {**settings[ensemble], "seeds": seeds}
    return settings
