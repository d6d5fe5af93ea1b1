"""RecTools' SASRec, BERT4Rec and HSTU, trained one epoch at a time so that validation can stop them, and continued on
newer rows."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models.nn.transformers.bert4rec import BERT4RecModel
from rectools.models.nn.transformers.hstu import HSTUModel
from rectools.models.nn.transformers.sasrec import SASRecModel

from peers.dense import frame_of
from peers.rows import Events, Requests
from peers.trials import Settings

CLASSES = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel, "hstu": HSTUModel}
ITEM_VECTORS = "item_model.item_net_blocks.0.ids_emb.weight"


def build_trainer() -> Trainer:
    """A trainer that writes nothing and uses the GPU, in mixed precision, where there is one."""
    gpu = torch.cuda.is_available()
    return Trainer(
        max_epochs=1,
        accelerator="gpu" if gpu else "cpu",
        precision="16-mixed" if gpu else "32-true",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def quieten() -> None:
    """Keeps Lightning's hints about workers and devices out of the run's output."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*target users were considered cold.*")
    warnings.filterwarnings("ignore", message=".*CatFeaturesItemNet.*")
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    warnings.filterwarnings("ignore", category=FutureWarning, module="rectools")


class Transformer:
    """One model of RecTools on one set of rows. `epoch()` trains it further; calling it scores requests."""

    def __init__(self, kind: str, events: Events, settings: Settings, seed: int) -> None:
        quieten()
        seed_everything(seed, workers=True, verbose=False)
        self.kind, self.settings, self.seed = kind, settings, seed
        self.n_items = events.n_items
        self.dataset = Dataset.construct(frame_of(events))
        options: dict[str, Any] = {
            name: value for name, value in settings.items() if name not in {"logits_t", "epochs"}
        }
        if "logits_t" in settings:
            options["lightning_module_kwargs"] = {"logits_t": settings["logits_t"]}
        self.model = CLASSES[kind](get_trainer_func=build_trainer, **options)

    def epoch(self) -> None:
        """One pass over the rows."""
        self.model.fit_partial(self.dataset, min_epochs=1, max_epochs=1)

    def keep(self) -> None:
        """Remembers the weights as they are now."""
        self.kept = {name: value.detach().clone() for name, value in self.model.torch_model.state_dict().items()}

    def go_back(self) -> None:
        """Takes the weights that were kept last."""
        self.model.torch_model.load_state_dict(self.kept)

    def continue_on(self, events: Events) -> Transformer:
        """The same model on other rows of the same vocabulary, with these weights to begin with.

        RecTools numbers items for each set of rows by itself, so item vectors go over by id; an item that is new starts
        from the mean vector. The optimiser starts afresh.
        """
        further = Transformer(self.kind, events, self.settings, self.seed)
        further.model.fit_partial(further.dataset, min_epochs=0, max_epochs=0)
        old, new = self.model.data_preparator, further.model.data_preparator
        weights = self.model.torch_model.state_dict()
        vectors = weights[ITEM_VECTORS]
        extra = old.n_item_extra_tokens
        moved = vectors[extra:].mean(dim=0).repeat(new.item_id_map.size, 1)
        moved[:extra] = vectors[:extra]
        shared, here, there = np.intersect1d(new.get_known_item_ids(), old.get_known_item_ids(), return_indices=True)
        del shared
        moved[extra + here] = vectors[extra + there]
        further.model.torch_model.load_state_dict({**weights, ITEM_VECTORS: moved})
        # Otherwise the first epoch would begin with random weights.
        further.model.lightning_model.is_fitted = True
        return further

    def __call__(self, requests: Requests) -> np.ndarray:
        """Scores of the model's whole vocabulary for each request's own history; none for a request without a known
        item. RecTools ranks all its items, seen ones are taken out by the caller."""
        scores = np.full((len(requests.ids), self.n_items), -np.inf, dtype=np.float32)
        frame = frame_of(requests.history)
        known = self.model.data_preparator.get_known_item_ids()
        answerable = frame.loc[frame["item_id"].isin(known), "user_id"].unique()
        if not len(answerable):
            return scores
        answers = self.model.recommend(
            users=answerable,
            dataset=Dataset.construct(frame),
            k=len(known),
            filter_viewed=False,
            add_rank_col=False,
            context=self.context_of(requests) if self.model.require_recommend_context else None,
        )
        scores[answers["user_id"].to_numpy(), answers["item_id"].to_numpy()] = answers["score"].to_numpy()
        return scores

    @staticmethod
    def context_of(requests: Requests) -> pd.DataFrame:
        """When each list is asked for: in the last nanosecond of its second, so that it sorts after the history."""
        moments = pd.to_datetime(requests.as_of * 1_000_000_000 + 999_999_999)
        return pd.DataFrame({"user_id": np.arange(len(requests.ids)), "weight": 1.0, "datetime": moments})
