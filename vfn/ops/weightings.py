from vfn.tables import Entry, Table

WEIGHTINGS = Table(
    "weighting",
    {
        n: Entry(text=n, target="x:y")
        for n in ["constant", "snr", "truncated_snr", "alpha2", "min_snr", "p2", "sigmoid", "edm"]
    },
    lambda n: Entry(text=n, target=n),
)
