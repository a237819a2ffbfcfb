"""`python -m biencoder_ablate`: see cli.py."""

from biencoder_ablate.cli.main import main

if __name__ == "__main__":
    main()
