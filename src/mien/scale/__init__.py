"""Beyond one machine: millions of photos, galleries and albums at size. Nothing of mien imports this but the
command line.

`photos.analyze` reads photos into Parquet parts, `people.identify` names the faces of such a table,
`album.group` clusters it. Each works through the same parts in this process (engine "local") or spread over
Ray's actors (engine "ray"). docs/scale.md is the way in, and says what it costs. Needs the extra: pip install
'mien[scale]'.
"""
