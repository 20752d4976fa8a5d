"""The lab report: everything that was run, published and learnt, as one page that opens offline."""
