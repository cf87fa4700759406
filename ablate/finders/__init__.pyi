from .finding import Finding as Finding
from .kinds import FINDERS as FINDERS, Answer as Answer, find as find
from .search import STRUCTURED as STRUCTURED
from .trials import Trials as Trials
