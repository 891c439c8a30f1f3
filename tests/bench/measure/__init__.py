"""What the programs in tests/bench share: clusters of Tidelog and of Apache Kafka, the load on them, what they spend.

`clusters` starts and stops brokers, `processes` reads what they use, `load` runs the load program in tests/bench/load,
`options` has the flags that all programs know, `report` makes tables.
"""
