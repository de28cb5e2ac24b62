"""The tables of the validator's log.

Where it sits: ``log.py`` makes them in the file that it opens for writing. An index
or a table that a file lacks is added then, so it needs no new version.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
SCHEMA = """
create table if not exists rounds (
    id integer primary key, tier text not null, epoch integer not null, block integer not null,
    started_at real not null, finished_at real, status text not null, reason text not null
) strict;
create table if not exists replies (
    round integer not null, hotkey text not null, uid integer not null, challenge text not null,
    kind text not null, status text not null, code text not null, elapsed_s real,
    n_condensed integer, primary key (round, hotkey, challenge)
) strict;
create table if not exists scores (
    round integer not null, hotkey text not null, uid integer not null, tier text not null,
    content_recovery real, recovery real, best_baseline_name text, best_baseline_c real,
    score real not null, rating real not null, parts text not null, primary key (round, hotkey)
) strict;
create index if not exists scores_by_hotkey on scores (hotkey, round);
create table if not exists weight_sets (
    id integer primary key, block integer not null, at real not null, code text not null,
    message text not null, confirmed integer not null, is_dry_run integer not null
) strict;
create table if not exists weights (
    weight_set integer not null, uid integer not null, hotkey text not null, weight real not null,
    primary key (weight_set, uid)
) strict;
create table if not exists organic (
    id integer primary key, at real not null, caller text not null, tier text not null,
    hotkey text not null, uid integer not null, status text not null, code text not null,
    elapsed_s real, n_chars integer not null, n_condensed integer, is_sampled integer not null
) strict;
create index if not exists organic_by_hotkey on organic (hotkey, id);
create table if not exists incentives (
    block integer not null, at real not null, uid integer not null, hotkey text not null,
    incentive real not null, primary key (block, uid)
) strict;
create index if not exists incentives_by_hotkey on incentives (hotkey, block);
create table if not exists facts (name text primary key, value text not null) strict;
"""
