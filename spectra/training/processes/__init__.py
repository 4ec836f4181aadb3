"""One training in several processes, which a launcher has started.

launch             which of them this one is, as the launcher says
group              samples by shares, sums over all processes, and what the first one says
together           an error of one ends all, and one of them tells it
watch              whether the others are alive
spectra_by_shares  spectra that the cache lacks, each computed by one of them
sharding           a base of which each process keeps a part
"""
