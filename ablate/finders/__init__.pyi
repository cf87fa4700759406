from .finding import Finding as Finding
from .kinds import FINDERS as FINDERS, Answer as Answer, find as find
from .trials import Trials as Trials
