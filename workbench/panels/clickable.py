"""HTML on a page whose pictures can be clicked."""

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

__all__ = ["Clickable"]


class Clickable(JSComponent):
    """Shows HTML; whoever clicks an element with ``data-row``, or presses Enter on it, has ``clicked`` called with the number.

    A child of class ``card``, shown while its parent is pointed at or has the focus, stays within the window.

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
      const keep = event => {
        const card = event.target.closest(':has(> .card)')?.querySelector(':scope > .card')
        if (!card) return
        card.style.left = '0'
        const at = card.parentNode.getBoundingClientRect(), { width, height } = card.getBoundingClientRect()
        card.style.left = `${Math.max(Math.min(0, innerWidth - width - 16 - at.left), -at.left)}px`
        card.style.top = at.bottom + height + 12 < innerHeight ? `${at.height + 6}px` : `${-height - 6}px`
      }
      box.addEventListener('mouseover', keep)
      box.addEventListener('focusin', keep)
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
