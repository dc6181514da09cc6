"""`python -m keras_resnet18` is the command line."""

from keras_resnet18.cli.app import main

if __name__ == "__main__":
    main()
