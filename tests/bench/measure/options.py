"""The flags that all programs know."""
import argparse
import pathlib
import sys

from . import clusters, load


def parser(doc, systems="tidelog,kafka"):
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = made.add_argument_group("brokers")
    common.add_argument("--systems", type=named(clusters.SYSTEMS), default=systems, metavar="NAME,...",
                        help=f"of {', '.join(clusters.SYSTEMS)}; default {systems}")
    common.add_argument("--tidelog", type=pathlib.Path, default=load.REPO / "target/release/tidelog", metavar="FILE",
                        help="the program; default target/release/tidelog")
    common.add_argument("--tidelog-set", action="append", default=[], metavar="NAME=VALUE",
                        help="a setting for all of Tidelog's brokers; may be given several times")
    common.add_argument("--kafka-version", default="4.3.0", metavar="VERSION", help="default 4.3.0")
    common.add_argument("--kafka-heap", default="1g", metavar="SIZE", help="of each of Kafka's brokers; default 1g")
    common.add_argument("--base-port", type=number(int, 1024, 64000), default=25092, metavar="PORT",
                        help="of the first broker; the next, and those 100 and 200 above, are taken too; default 25092")
    common.add_argument("--work", type=pathlib.Path, default=load.BUILT / "brokers", metavar="DIR",
                        help="where brokers have their data, removed afterwards; default target/bench/brokers")
    return made


def named(known):
    """A list of names with commas between."""
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r} among {', '.join(known)}")
        return names
    return parse


def number(kind, least, most=float("inf")):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value
    return parse


def numbers(kind, least, most=float("inf")):
    """A list of numbers with commas between, which may be empty."""
    one = number(kind, least, most)

    def parse(text):
        return [one(part) for part in text.split(",")] if text else []
    return parse


def install(options):
    """All that is fetched or built, before anything is measured."""
    options.work = options.work.absolute()
    load.build()
    for name in options.systems:
        clusters.SYSTEMS[name].install(options)


def systems(options):
    return [clusters.SYSTEMS[name] for name in options.systems]


def say(text):
    """Progress, beside the results on the standard output."""
    print(text, file=sys.stderr, flush=True)
