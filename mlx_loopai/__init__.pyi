from mlx_loopai.config import GenerationOptions as GenerationOptions
from mlx_loopai.config import RunConfig as RunConfig
from mlx_loopai.config import load_config as load_config
from mlx_loopai.errors import InputError as InputError
from mlx_loopai.errors import LoopaiError as LoopaiError
from mlx_loopai.experiments.evaluate import evaluate as evaluate
from mlx_loopai.generation.answer_stream import Text as Text
from mlx_loopai.library.cleaning import filter_text as filter_text
from mlx_loopai.library.conversion import convert as convert
from mlx_loopai.library.training import compare as compare
from mlx_loopai.library.training import plan as plan
from mlx_loopai.library.training import train as train
from mlx_loopai.library.writing import Model as Model
from mlx_loopai.library.writing import TextStream as TextStream
from mlx_loopai.library.writing import generate as generate
from mlx_loopai.library.writing import load as load
from mlx_loopai.library.writing import stream as stream
from mlx_loopai.runs.listener import Listener as Listener

__version__: str
