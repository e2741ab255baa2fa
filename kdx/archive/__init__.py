"""Scores archives of millions of images with one bundle, in processes or a cluster, resumably.

A run is a folder. ``score.json`` holds what decides the scores, ``files/`` which image is in which
shard. A shard's result is one Parquet file in ``shards/``, written in one step: a shard is finished
if it has its file. Engines send shards to processes (:mod:`kdx.archive.local`,
:mod:`kdx.archive.ray_engine`); one class scores them (:mod:`kdx.archive.scorer`). Nothing here
imports torch, and pyarrow is imported when a run starts.
"""
