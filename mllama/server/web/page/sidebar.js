/** The list of chats. */

import { byId, element } from "./elements.js";

/**
 * Opens and closes the list on narrow windows.
 */
export function startSidebar() {
  const set = (open) => {
    document.body.classList.toggle("sidebar-open", open);
    byId("open-sidebar").setAttribute("aria-expanded", String(open));
    byId("backdrop").hidden = !open;
    if (open) byId("close-sidebar").focus();
  };
  byId("open-sidebar").addEventListener("click", () => set(true));
  for (const id of ["close-sidebar", "backdrop"]) byId(id).addEventListener("click", () => {
    set(false);
    byId("open-sidebar").focus();
  });
  byId("sidebar").addEventListener("keydown", (event) => {
    if (event.key === "Escape") byId("close-sidebar").click();
  });
  byId("chats").addEventListener("click", (event) => {
    if (event.target.closest(".open")) set(false);
  });
}

/**
 * Shows the chats.
 * @param {Object[]} conversations
 * @param {?string} current The id of the one that is shown.
 * @param {{open: Function, remove: Function}} actions Called with a conversation.
 */
export function showChats(conversations, current, actions) {
  byId("chats").replaceChildren(
    ...conversations.map((each) => {
      const title = each.title || "New chat";
      const open = element("button", { type: "button", className: "open", click: () => actions.open(each) }, title);
      if (each.id === current) open.setAttribute("aria-current", "true");
      return element("li", {}, open,
        element("button", { type: "button", className: "icon", "aria-label": `Delete “${title}”`, title: "Delete",
          click: () => {
            if (confirm(`Delete “${title}” with its pictures?`)) actions.remove(each);
          } }, "✕"));
    })
  );
}
