"""Jobs over millions of photos on one or several machines. Only the command line imports this package.

`photos.analyze` reads photos into Parquet parts, `people.identify` identifies the faces of such a table, and
`album.group` clusters it. Each processes the same parts in this process (engine "local") or in Ray actors
(engine "ray"). See docs/scale.md. Needs the extra: pip install 'mien[scale]'.
"""
