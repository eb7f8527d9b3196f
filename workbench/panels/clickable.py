"""HTML on a page whose pictures can be clicked."""

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

__all__ = ["Clickable"]


class Clickable(JSComponent):
    """Shows HTML; whoever clicks an element with ``data-row``, or presses Enter on it, has ``clicked`` called with the number.

    Arguments:
        clicked: Called with the number.
    """

    object = param.String(doc="The HTML")

    _esm = """
    export function render({ model }) {
      const box = document.createElement('div')
      const draw = () => { box.innerHTML = model.object }
      const told = event => {
        const one = event.target.closest('[data-row]')
        if (one) model.send_msg({ row: Number(one.dataset.row) })
      }
      box.addEventListener('click', told)
      box.addEventListener('keydown', event => { if (event.key === 'Enter') told(event) })
      model.on('object', draw)
      draw()
      return box
    }
    """

    def __init__(self, clicked: Callable[[int], Any], **params: Any) -> None:
        super().__init__(**params)
        self._clicked = clicked

    def _handle_msg(self, msg: dict[str, Any]) -> None:
        self._clicked(int(msg["row"]))
