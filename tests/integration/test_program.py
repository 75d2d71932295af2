"""The exported user encoder of a model of session and long-term sets, on the batches of queries."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs import export, prepare, train
from raysys.data.queries import read_queries
from raysys.distributed.checkpoints import load_trained
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

MODEL = """name = "sdm"
embedding_dim = 16
history_length = 9
num_negatives = 20
long_features = ["item", "group", "words", "event_store"]
event_features = ["store"]
"""


def test_the_program_of_sdm_encodes_as_the_checkpoint_does(tmp_path, ray_cluster):
    folder, out = planted_log(tmp_path, users=80), Folder(str(tmp_path / "out"))
    events = pq.read_table(folder / "events.parquet")
    stores = [f"s{at // 60 % 5}" for at in events.column("timestamp").to_pylist()]
    pq.write_table(events.append_column("shop", pa.array(stores)), folder / "events.parquet")
    path = run_file(
        folder,
        model=MODEL,
        session="last_n = 3\nlong_term_max = 4",
        training="epochs = 1\nbatch_size = 64\nlearning_rate = 0.01",
        **{
            "data.columns": 'user = "user_id"\nitem = "item_id"\ntime = "timestamp"\nstore = "shop"',
            "data.items.features": "group = {}\n"
            'words = { kind = "multi_valued", column = "title", separator = " " }',
        },
    )
    command = ["--run", str(path), "--out", out.uri]
    for job in (prepare, train):
        assert job.main(command) == 0
    assert export.main([*command, "--program"]) == 0

    info = (out / "user_encoder").read_json("manifest.json")["info"]
    sets = {f"long_{name}": 4 for name in ("item", "group", "words", "event_store")}
    assert info["columns"] == {"short": 3, "short_store": 3, **sets}
    trained = load_trained(out / "checkpoint", out / "features")
    encode = torch.export.load(tmp_path / "out" / "user_encoder" / "user_encoder.pt2").module()
    for part in sorted((out / "features").read_json("manifest.json")["info"]["part_events"]):
        queries = read_queries(out / "features", part, "test", trained.shape)
        for rows in (np.arange(len(queries)), np.arange(1)):
            batch = {name: torch.from_numpy(values) for name, values in queries.batch(rows).items()}
            assert sorted(batch) == info["inputs"]
            vectors, active = encode(batch)
            expected, expected_active = trained.model.encode_users(batch)
            torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=0)
            assert torch.equal(active, expected_active)
