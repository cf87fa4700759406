from .animations import save_animation as save_animation
from .architecture.network import draw_layout as draw_layout, draw_network as draw_network
from .comparison import save_comparison as save_comparison
from .curves import Line as Line, draw_curves as draw_curves
from .errors import PictureError as PictureError
from .findings import (
    Row as Row,
    Strip as Strip,
    draw_rows as draw_rows,
    save_strips as save_strips,
)
from .maps import draw_map as draw_map
from .matrix import Square as Square, draw_matrix as draw_matrix, signed as signed
from .measures import Measure as Measure, measures_of as measures_of
from .orders import draw_orders as draw_orders
from .page import (
    Block as Block,
    PageText as PageText,
    Style as Style,
    Tile as Tile,
    draw_pages as draw_pages,
    save_pages as save_pages,
)
from .present import present_run as present_run
from .report.run import save_report as save_report
from .report.study import letters_note as letters_note, present_study as present_study
from .scatter import Dot as Dot, draw_scatter as draw_scatter
from .sheets import contact_sheet as contact_sheet, save_sheet as save_sheet
from .studies.visualizations import save_visualizations as save_visualizations
from .svg import save_drawing as save_drawing
from .tries import Try as Try, draw_tries as draw_tries
