"""Download a public data set and write it as interactions, items and users in Parquet."""

import argparse
import signal
import sys
from pathlib import Path

from raysys.data.download import DATASETS, download
from raysys.errors import USER_ERRORS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "data", help="default: jobs/data")
    parser.add_argument("--url", help="the archive elsewhere: http, https, file or a path; it is checked")
    parser.add_argument("--force", action="store_true", help="replace what is already there")
    args = parser.parse_args(argv)
    try:
        print(download(args.dataset, args.to, url=args.url, force=args.force, progress=sys.stderr))
    except USER_ERRORS as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
    sys.exit(main())
