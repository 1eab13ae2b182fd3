"""python -m previa."""

from previa.cli import run_main

if __name__ == "__main__":
    run_main()
