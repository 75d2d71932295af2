"""SDM in NumPy, one user, one step and one gate at a time, written from the equations of the paper
(arXiv:1909.00385, sec. 3); it knows nothing of padding, batches or masks."""

import math

import numpy as np

from tests.reference.losses import row_loss
from tests.reference.mind_model import array, unit


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(logits):
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def attend(query, vectors):
    """alpha_k = softmax(h_k . e_u) and sum_k alpha_k h_k; zero for no vectors."""
    if not vectors:
        return np.zeros_like(query), []
    weights = softmax([float(np.dot(h, query)) for h in vectors])
    return sum(w * h for w, h in zip(weights, vectors, strict=True)), weights


def lstm(inputs, weight_ih, weight_hh, bias):
    """The outputs of all steps; the rows of the weights are those of input, forget, cell and output gate."""
    dim = weight_hh.shape[1]
    h, c, outputs = np.zeros(dim), np.zeros(dim), []
    for e in inputs:
        pre = weight_ih @ e + weight_hh @ h + bias
        i, f, o = sigmoid(pre[:dim]), sigmoid(pre[dim : 2 * dim]), sigmoid(pre[3 * dim :])
        c = f * c + i * np.tanh(pre[2 * dim : 3 * dim])
        h = o * np.tanh(c)
        outputs.append(h)
    return outputs


def self_attention(steps, inner, output, num_heads, scaled, causal):
    """Every head by itself: softmax over the products of queries and keys, no bias, heads concatenated."""
    dim = len(output)
    size = dim // num_heads
    results = []
    for place, x in enumerate(steps):
        seen = steps[: place + 1] if causal else steps
        heads = []
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            w_q, w_k, w_v = (inner[part * dim : (part + 1) * dim][own] for part in range(3))
            products = [float(np.dot(w_q @ x, w_k @ other)) for other in seen]
            weights = softmax([p / math.sqrt(size) if scaled else p for p in products])
            heads.append(sum(w * (w_v @ other) for w, other in zip(weights, seen, strict=True)))
        results.append(output @ np.concatenate(heads))
    return results


def layer_norm(x, weight, bias):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * weight + bias


class Reference:
    """The whole model in NumPy, with the parameters of `model`; dropout is off."""

    def __init__(self, model, catalog):
        self.config, self.catalog, self.model = model.config, catalog, model
        self.raw = np.array([self._item(j) for j in range(catalog.num_items)])
        self.items = unit(self.raw) if model.config.normalize else self.raw

    def _item(self, idx):
        encoder = self.model.items
        own = array(encoder.item)[idx]
        if idx == 0 or not encoder.features:
            return own
        parts = [own]
        for feature in encoder.features:
            table = array(getattr(encoder, "feature_" + feature.name.replace(".", "__")))
            value = self.catalog.item_values[feature.name][idx]
            if feature.kind == "number":
                parts.append(0.0 * table if math.isnan(value) else value * table)
            elif feature.kind == "id":
                parts.append(table[value])
            else:
                real = [table[v] for v in value if v]
                parts.append(sum(real) / len(real) if real else np.zeros(len(own)))
        return array(encoder.projection) @ np.concatenate(parts)

    def _linear(self, mlp, x):
        return array(mlp.weights[0]) @ x + array(mlp.biases[0])

    def table(self, name):
        key = name.replace(".", "__")
        if key in self.model.tables:
            return array(self.model.tables[key])
        return array(getattr(self.model.items, "feature_" + key))

    def query(self, batch, row):
        if self.model.learnt_query is not None:
            return array(self.model.learnt_query)
        if self.model.query is None:
            return None
        profile = self.model.profile
        age = array(profile.feature_age)[int(batch["profile_age"][row])]
        likes = array(profile.feature_likes)
        values = [int(v) for v in batch["profile_likes"][row] if v]
        mean = sum(likes[v] for v in values) / len(values) if values else np.zeros(likes.shape[1])
        joined = np.concatenate([age, mean, [float(batch["profile_income"][row])]])
        return self._linear(self.model.query, joined)

    def steps(self, batch, row):
        """The outputs of the session's steps, after the attention to each other."""
        config, model = self.config, self.model
        places = [k for k, item in enumerate(batch["short"][row].tolist()) if item]
        inputs = []
        for place in places:
            x = self.raw[int(batch["short"][row, place])]
            if config.event_features:
                own = [self.table(f"event_{n}")[int(batch[f"short_{n}"][row, place])]
                       for n in config.event_features]  # fmt: skip
                x = self._linear(model.joint, np.concatenate([x, *own]))
            inputs.append(x)
        for number, layer in enumerate(model.session.lstm.layers):
            bias = array(layer.bias_ih_l0) + array(layer.bias_hh_l0)
            outputs = lstm(inputs, array(layer.weight_ih_l0), array(layer.weight_hh_l0), bias)
            if number >= config.lstm_layers - config.lstm_residual:
                outputs = [x + h for x, h in zip(inputs, outputs, strict=True)]
            inputs = outputs
        norms = [(array(norm.weight), array(norm.bias)) for norm in model.session.norms]
        if config.layer_norm:
            inputs = [layer_norm(h, *norms[0]) for h in inputs]
        if config.self_attention:
            heads, causal = model.session.heads, config.train_positions == "every"
            found = self_attention(inputs, array(heads.inner), array(heads.output), config.num_heads,
                                   config.scaled_attention, causal)  # fmt: skip
            if config.attention_residual:
                found = [h + x for h, x in zip(inputs, found, strict=True)]
            inputs = [layer_norm(x, *norms[1]) for x in found] if config.layer_norm else found
        return inputs

    def long(self, batch, row, query):
        sets, weights = [], {}
        for name in self.config.long_features:
            values = [v for v in batch[f"long_{name}"][row].tolist() if v]
            table = self.raw if name == "item" else self.table(name)
            vectors = [table[v] for v in values]
            if self.config.user_attention:
                z, weights[name] = attend(query, vectors)
            else:
                z = sum(vectors) / len(vectors) if vectors else np.zeros(self.config.embedding_dim)
                weights[name] = [1 / len(vectors) for _ in vectors]
            sets.append(z)
        return np.tanh(self._linear(self.model.long, np.concatenate(sets))), weights

    def user(self, batch, row, last=None):
        """The user vector after the first `last` steps of the session (None: all), the weights of the steps
        and sets, and the gate."""
        config = self.config
        query = self.query(batch, row)
        short = long = gate = None
        weights = {}
        if config.fusion != "long":
            steps = self.steps(batch, row)
            steps = steps if last is None else steps[:last]
            if config.user_attention:
                short, weights["short"] = attend(query, steps)
            else:
                short = steps[-1] if steps else np.zeros(config.embedding_dim)
                weights["short"] = [float(k == len(steps) - 1) for k in range(len(steps))]
        if config.fusion != "short":
            asked = (
                query if config.set_query == "profile" else query + self._linear(self.model.set_query, short)
            )
            long, sets = self.long(batch, row, asked)
            weights |= {f"long_{name}": found for name, found in sets.items()}
        if config.fusion == "gate":
            gate = sigmoid(self._linear(self.model.gate, np.concatenate([short, query, long])))
            vector = (1 - gate) * long + gate * short
        elif config.fusion == "concat":
            vector = self._linear(self.model.joined, np.concatenate([short, query, long]))
        else:
            vector = short if long is None else long
        if config.residual:
            items = [item for item in batch["short"][row].tolist() if item]
            items = items if last is None else items[:last]
            if items:
                vector = vector + self.model.latest.item() * self.raw[items[-1]]
        return (unit(vector[None])[0] if config.normalize else vector), weights, gate

    def loss(self, batch):
        """The training loss, the mean over rows of the mean over their targets."""
        config, total = self.config, 0.0
        for row, targets in enumerate(batch["target"].reshape(len(batch["target"]), -1).tolist()):
            pairs = [(None, target) for target in targets if target]
            session = [item for item in batch["short"][row].tolist() if item]
            if config.train_positions == "every" and session:
                following = [*session, *targets]
                pairs = [
                    (step, following[step + n])
                    for step in range(1, len(session) + 1)
                    for n in range(config.next_items)
                    if step + n < len(following) and following[step + n] >= 2
                ]
            losses = [
                row_loss(self.model.loss, self.user(batch, row, last)[0], self.items, target, batch, row,
                         config.temperature, config.hard_negatives)
                for last, target in pairs
            ]  # fmt: skip
            total += sum(losses) / len(losses) / len(batch["target"])
        return total
