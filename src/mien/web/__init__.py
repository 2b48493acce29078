"""The web page: its files, and `build`, which makes a folder of them that needs no server of ours."""
