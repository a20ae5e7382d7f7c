"""Print the seconds of an epoch and the peak memory of one network of each kind, on made-up data.

    python docs/growth.py 138493x26744x20000263

The arguments are users x items x ratings. Both networks have the settings of rating prediction and
one thread. Seconds are those of the second epoch; memory is that of the process until then, with
the data and with what making them takes.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import load                                                               # noqa: E402
from experiments import markdown, peak_mb                                           # noqa: E402
from lfg import LFG                                                                 # noqa: E402
from settings import settings_for                                                   # noqa: E402

for size in sys.argv[1:]:
    data = load(f"synthetic:{size}")
    R, E, F = data.ratings, data.E, data.F
    settings = settings_for(len(R), "coldstart")
    rows = []
    for name, inputs in ("LFG", (R, E, F)), ("LFG-item", (R.T, F, E)):
        times = []
        LFG(**{**settings[name], "epochs": 2}).fit(
            *inputs, progress=lambda *_, times=times: times.append(time.process_time()))
        rows.append([name, f"{times[1] - times[0]:.1f}", f"{peak_mb():.0f}"])
    print(f"\n{R.shape[0]:,} users, {R.shape[1]:,} items, {len(R):,} ratings\n")
    print(markdown(["Model".ljust(8), "Seconds per epoch", "Peak memory in MB"], rows))
