"""Scoring archives: millions of stored images through one bundle, by several processes or a cluster, resumably.

A run is a folder. ``score.json`` says what decides the scores, ``files/`` which image is in which shard, and a shard's
result is one Parquet file in ``shards/``, there whole or not at all: what is there is what is done. Engines only bring
shards to processes (:mod:`kdx.archive.local`, :mod:`kdx.archive.ray_engine`); one class scores them
(:mod:`kdx.archive.scorer`). No torch here, and no pyarrow before a run begins.
"""
