"""Exporters: from a `keras.Model` to the files that ship."""
