"""Data modules, one file per source; all are a :class:`~indeed_ext.train.data.base.MultilabelData`."""
